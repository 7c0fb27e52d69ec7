"""How much narrower are paired intervals by prequential evaluation? benchmarks/prequential.py.

Two runs on the global time split are scored event by event after the cut, and compared with the
leave-one-out results of the same two variants in a suite.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from echojax.config import Config
from echojax.errors import UserError
from echojax.evaluation.metrics import SHOWN, example_metrics
from echojax.evaluation.statistics import paired_difference
from echojax.suites import results
from echojax.training.evaluate import rank_run
from echojax.training.run_folder import read_own_config
from harness import Row, log


@dataclass(frozen=True)
class Flags(harness.DataFlags):
    """Compare two models user by user, by prequential evaluation and by leave-one-out.

    The intervals and tests are those of the suites' pages: a bootstrap over users, each with all of
    his or her events, and a permutation test.
    """

    ours: Path
    """Folder of a run on the global time split."""
    theirs: Path
    """Folder of a run of another model on the same split."""
    suite: Path
    """Folder with the results of a suite in which both models were evaluated by leave-one-out, with
    the same seeds, such as benchmarks/results/ml-100k."""


def main(flags: Flags) -> None:
    """Write a row for each protocol, treatment of seen items (kept or filtered) and metric."""
    configs = [read_own_config(folder) for folder in (flags.ours, flags.theirs)]
    ours, theirs = configs
    if ours.dataset != theirs.dataset or ours.data_path or theirs.data_path:
        raise UserError("--ours and --theirs must be runs on the same data set, given by --dataset")
    settings: Row = {"dataset": ours.dataset, "ours": ours.model, "theirs": theirs.model}
    settings["seeds"] = [ours.seed, theirs.seed]
    with harness.record_of("prequential", flags, settings) as record:
        for protocol in ("leave-one-out", "prequential"):
            for exclude_seen in (False, True):
                case: Row = {"protocol": protocol, "exclude_seen": exclude_seen}
                for _ in record.missing([case]):
                    if protocol == "prequential":
                        how = {"exclude_seen": exclude_seen, "prequential": True}
                        pair = [ranks_of(flags, one, **how) for one in (flags.ours, flags.theirs)]
                    else:
                        pair = _leave_one_out(flags.suite, configs, exclude_seen)
                    record.add(*({**case, **row} for row in compared(*pair)))
        _log_widths(record.document.rows)


def _leave_one_out(suite: Path, configs: list[Config], exclude_seen: bool) -> list[results.Ranks]:
    """Return the ranks of both models' runs in the suite, ours first."""
    known, pair = results.read(suite, suite.name).runs, []
    for config in configs:
        name = f"{config.dataset}/{config.model}/seed-{config.seed}"
        if name not in known or (ranks := known[name].ranks.get(exclude_seen)) is None:
            raise UserError(f"--suite {suite} has no ranks of {name}")
        pair.append(ranks)
    return pair


def ranks_of(flags: harness.DataFlags, folder: Path, **how: Any) -> results.Ranks:
    """Return the ranks of the test targets of a run; ``how`` are options of ``rank_run``."""
    run = rank_run(folder, "test", data_dir=flags.data_folder, **how)
    shown = run.examples
    return results.Ranks(run.ranked.rank_M, shown.user_M, shown.target_M - shown.start_M)


def compared(ours: results.Ranks, theirs: results.Ranks) -> list[Row]:
    """Return a row for each metric: both means, the paired difference and its interval's width.

    Raises:
        UserError: the ranks are those of different users.
    """
    if not (ours.user_M.size == theirs.user_M.size and (ours.user_M == theirs.user_M).all()):
        raise UserError("the two models were evaluated on different users")
    rows = []
    for metric in SHOWN:
        own_M, other_M = (example_metrics(one.rank_M, [metric])[:, 0] for one in (ours, theirs))
        found = paired_difference(own_M, other_M, ours.user_M)
        rows.append(
            {
                "metric": metric,
                "events": ours.user_M.size,
                "users": len(set(ours.user_M.tolist())),
                "ours": float(own_M.mean()),
                "theirs": float(other_M.mean()),
                **found,
                "width": found["high"] - found["low"],
            }
        )
    return rows


def _log_widths(rows: list[Row]) -> None:
    for row in rows:
        seen = "filtered" if row["exclude_seen"] else "kept"
        log.info(
            f"{row['protocol']:<14} seen {seen:<9} {row['metric']:<8} {row['events']:>6,} events "
            f"{row['users']:>4} users  {row['difference']:+.4f} [{row['low']:+.4f}, "
            f"{row['high']:+.4f}]  width {row['width']:.4f}"
        )


if __name__ == "__main__":
    harness.run(Flags, main)
