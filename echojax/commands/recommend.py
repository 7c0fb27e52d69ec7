"""Recommend items with a run's best checkpoint."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from echojax.command_line import logged_terminal, parse
from echojax.errors import UserError
from echojax.flags import Positive, RunFolderFlags
from echojax.signals import Stopped

if TYPE_CHECKING:
    from echojax.serving import Recommender

_NAMED = 10  # most items of the history that are shown with their titles
_SECONDS = 10.0  # between two lines of progress


@dataclass(frozen=True, kw_only=True)
class Flags(RunFolderFlags):
    """Recommend next items by the best checkpoint of a run."""

    history: str | None = None
    """One history: the data's own item ids between commas or spaces, oldest first; as a JSON list
    where ids hold such signs: '["a b", "c,d"]'. To a run with --time-gaps item@time."""
    histories: Path | None = None
    """A file with lines of `user item item ...` instead, plain or .gz; answered into --output. To a
    run with --time-gaps `user item@time item@time ...`."""
    output: Path | None = None
    """JSON lines with the answers; after an interruption the same command continues the file."""
    k: Annotated[Positive, tyro.conf.arg(aliases=["-k"])] = 10
    """How many items to recommend."""
    exclude_seen: bool = True
    """Leave out what the history holds."""
    batch_size: Positive | None = None
    """Histories computed at once (None: 64 on a CPU, 1024 elsewhere)."""


def check(flags: Flags) -> None:
    """Raise ``UserError`` if flags contradict each other."""
    if (flags.history is None) == (flags.histories is None):
        raise UserError("give either --history ITEM,ITEM,... or --histories FILE")
    if (flags.histories is None) != (flags.output is None):
        raise UserError("--histories FILE and --output FILE belong together; give both")
    if flags.histories is not None and flags.output is not None:
        from echojax.serving.history_file import check_files

        check_files(flags.histories, flags.output)


def show(flags: Flags, recommender: "Recommender", console: Console) -> None:
    """Print the recommendations for one history, with titles if there are any."""
    from echojax.serving.item_ids import typed_ids, with_times
    from echojax.serving.trained import run_titles
    from echojax.training.run_folder import read_config, read_items

    titles = run_titles(
        read_items(flags.run_dir)[1],
        read_config(flags.run_dir),
        data_dir=flags.data_dir,
        data_path=flags.data_path,
    )
    words = typed_ids(flags.history or "")
    events = words if recommender.gap_unit is None else with_times(words)
    history = [event if isinstance(event, str) else event[0] for event in events]
    if titles and history:  # so that ids of other data are noticed
        named = " · ".join(titles.get(item, item) for item in history[-_NAMED:])
        console.print(f"history{' ends with' * (len(history) > _NAMED)}: {named}")
    (answer,) = recommender.recommend([events], flags.k, exclude_seen=flags.exclude_seen)
    known = len(history) - answer.unknown
    if answer.unknown:
        skipped = f"{answer.unknown} of {len(history)}"
        console.print(f"Items that this model does not know are skipped: {skipped}.")
    if known > recommender.max_len:
        console.print(f"The model reads the newest {recommender.max_len} of {known} items.")
    table = Table("item", *(["title"] if titles else []), box=None, pad_edge=False)
    table.add_column("interactions" if answer.by == "popularity" else "score", justify="right")
    for item, score in zip(answer.item_ids, answer.scores, strict=True):
        table.add_row(item, *([titles.get(item, "")] if titles else []), f"{score:.6g}")
    console.print(table)
    if (found := len(answer.item_ids)) < flags.k:
        console.print(f"{found:,} of the {flags.k:,} asked for: no other item is left to recommend")


def answer_all(flags: Flags, recommender: "Recommender", console: Console) -> None:
    """Answer a file of histories."""
    from echojax.serving.history_file import answer_file

    assert flags.histories is not None
    assert flags.output is not None
    began = logged = time.monotonic()
    first, done = None, 0
    answered = answer_file(
        recommender, flags.histories, flags.output, flags.k, exclude_seen=flags.exclude_seen
    )
    try:
        with console.status("reading histories ...") as status:  # only on a terminal
            for done in answered:
                first, now = done if first is None else first, time.monotonic()
                words = f"{done:,} histories  {(done - first) / (now - began):,.0f}/s"
                status.update(words)
                if not console.is_terminal and now - logged >= _SECONDS:
                    logged = now
                    console.print(words)
    except Stopped:
        console.print(f"stopped after {done:,} histories; the same command goes on")
        raise
    console.print(f"{done:,} histories answered: {flags.output}")


def main(words: list[str]) -> None:
    """Run the command."""
    flags = parse(Flags, args=words)
    check(flags)
    console = logged_terminal()
    try:
        from echojax.compilation import use_compilation_cache
        from echojax.serving import Recommender

        use_compilation_cache()
        recommender = Recommender.load(
            flags.run_dir,
            data_dir=flags.data_dir,
            data_path=flags.data_path,
            batch_size=flags.batch_size,
        )
        console.print(f"step {recommender.step} of {flags.run_dir}")
        (show if flags.history is not None else answer_all)(flags, recommender, console)
    except Stopped as stop:
        raise SystemExit(128 + stop.signum) from None
