"""Equal tuning: the same search for each learned variant of a suite, before its runs are made."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from echojax.config import as_dict
from echojax.errors import UserError
from echojax.files import read_json, write_json
from echojax.models import HEURISTICS
from echojax.signals import Interrupted
from echojax.suites.results import Results
from echojax.suites.runs import Run, reason_of, write_failure, write_sample_of
from echojax.suites.suite_file import Suite, Tuning, own_flags
from echojax.training.builders import resolved

log = logging.getLogger(__name__)

_KEY = "tuning"


def recorded(results: Results, runs: Sequence[Run]) -> dict[tuple[str, str], Tuning]:
    """Return by data set and variant what searches found, as finished runs have recorded it."""
    found = {}
    for run in runs:
        result = results.runs.get(run.name)
        if result is None or _KEY not in result.results:
            continue
        try:
            tuning = msgspec.convert(result.results[_KEY], Tuning)
        except msgspec.ValidationError as error:
            raise UserError(
                f"the results of {run.name} do not say how it was tuned ({error}); restore them "
                "from a copy, or delete them to make the run again"
            ) from None
        found[run.dataset, run.variant] = tuning
    return found


def check_budget(suite: Suite, out: Path, trials: int | None, *, report_only: bool) -> None:
    """Raise ``UserError`` if finished runs were tuned with another number of trials."""
    for tuning in suite.tuned.values():
        if trials != tuning.trials and not (report_only and trials is None):
            raise UserError(
                f"{out} has runs that were made with --tune {tuning.trials}; give that, or name "
                "another --out"
            )


def tune(suite: Suite, runs: Sequence[Run], out: Path, trials: int, console: Console) -> None:
    """Search the flags of each learned variant that has no search yet; put them into the suite.

    A variant whose search fails, or is done by another process, stays without. Studies are in
    ``tuning/DATASET/VARIANT`` of the suite's folder ``out``.
    """
    from echojax.tuning.search import search
    from echojax.tuning.space import find_space

    firsts, spaces = [], []
    for run in runs:
        if run.seed != suite.seeds[0] or run.global_time or run.config.model in HEURISTICS:
            continue
        fixed = own_flags(suite, run.dataset, run.variant)
        try:
            config = resolved(run.config)
            spaces.append(find_space(config, file=None, recipe=suite.recipe, fixed=fixed))
            if own := spaces[-1].keys() - as_dict(config).keys():
                raise UserError(f"{min(own)} cannot be searched: no suite can set it")
        except UserError as error:
            where = f"{suite.name}.toml, variant {run.variant} on {run.dataset}"
            raise UserError(f"{where}: {error}") from None
        firsts.append(run)
    for number, (run, space) in enumerate(zip(firsts, spaces, strict=True), 1):
        key = run.dataset, run.variant
        if key in suite.tuned:
            continue
        log.info("[%d/%d] search for %s on %s", number, len(firsts), run.variant, run.dataset)
        folder = out / "tuning" / run.dataset / run.variant
        config = dataclasses.replace(run.config, run_dir=None)
        try:
            write_sample_of(suite, run)
            found = search(config, space, folder, console, trials=trials)
        except Interrupted:
            raise
        except Exception as error:  # its own, whatever it is: the others go on
            why = f"its search: {reason_of(error)}"
            log.info("failed: %s", why)
            for other in runs:
                if (other.dataset, other.variant) == key:
                    write_failure(other, why)
            continue
        if not found.left:
            suite.tuned[key] = msgspec.convert(found.record, Tuning)


def write_tuning(run: Run, tuning: Tuning) -> None:
    """Write into a run's results how its flags were found, unless they have it."""
    path = run.folder / "results.json"
    results = read_json(path)
    if _KEY not in results:
        write_json(path, results | {_KEY: msgspec.to_builtins(tuning)})
