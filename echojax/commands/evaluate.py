"""Evaluate a run's best checkpoint again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from echojax.command_line import logged_terminal, parse
from echojax.errors import UserError
from echojax.files import check_output_folder, write_json
from echojax.flags import RunFolderFlags


@dataclass(frozen=True, kw_only=True)
class Flags(RunFolderFlags):
    """Rank a part of the data with the best checkpoint of a run."""

    split: Literal["test", "valid"] = "test"
    """Which part to evaluate."""
    metrics: str | None = None
    """Which, between commas: hr, ndcg, mrr, recall, precision, map, coverage, mean_popularity,
    novelty, gini, serendipity, ece, or a plug-in's (None: those that results.json has)."""
    ks: str | None = None
    """Cutoffs of them, between commas (None: 5,10,20)."""
    evaluate: Literal["one-by-one", "prequential"] = "one-by-one"
    """Score each event by a pass over its own history, or all of a window in one pass (causal
    models, runs with --split global-time)."""
    exclude_seen: bool | None = None
    """Leave items of the history out of the ranking (None: as the run did)."""
    output: Path | None = None
    """Write the results as JSON here too."""


def main(words: list[str]) -> None:
    """Run the command."""
    flags = parse(Flags, args=words)
    if flags.output is not None:
        check_output_folder(flags.output)
        if flags.output.is_dir():
            raise UserError(f"--output {flags.output} is a folder; name a file")
    # These take seconds to import; help and mistakes are to be seen before.
    from echojax.compilation import use_compilation_cache
    from echojax.serving.trained import check_places
    from echojax.training.evaluate import evaluate_run

    check_places(flags.data_dir, flags.data_path)
    console = logged_terminal()
    use_compilation_cache()
    results = evaluate_run(
        flags.run_dir,
        flags.split,
        metrics=None if flags.metrics is None else _words(flags.metrics),
        cutoffs=None if flags.ks is None else [_number(word) for word in _words(flags.ks)],
        exclude_seen=flags.exclude_seen,
        prequential=flags.evaluate == "prequential",
        data_dir=flags.data_dir,
        data_path=flags.data_path,
    )
    means = results["interval"]
    others = [name for name in results if isinstance(results[name], float) and name not in means]
    for names in (means, others):
        width = max(map(len, [*names, "ndcg@10 "]))
        for name in names:
            interval = "  [{:.6f}, {:.6f}]".format(*means[name]) if name in means else ""
            console.print(f"{name:<{width}} {results[name]:.6f}{interval}")
    if flags.output is not None:
        write_json(flags.output, results)


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.split(",")]


def _number(word: str) -> int:
    if not (word.isdecimal() and len(word) < 10):
        raise UserError(f"--ks takes whole numbers between commas, such as 5,10, not {word!r}")
    return int(word)
