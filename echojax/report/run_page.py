"""``report.html``: one self-contained page about a run."""

from pathlib import Path
from typing import Any

from echojax.report.pages import render
from echojax.report.run_figures import run_pictures
from echojax.report.run_record import RunRecord
from echojax.report.run_tables import cold_table, score_table
from echojax.report.tables import Table, duration

_HEADLINE = ("ndcg@10", "hr@10", "mrr@10")
_PLACES = ("_path", "_dir", "plugin", "init_from")  # endings of flags that take a path
_NOTE = (
    "Each score has its 95 % bootstrap interval over users. These describe the ten items "
    "recommended to each user: Coverage@10 is the share of all items that are recommended to "
    "anybody, Popularity@10 the mean number of training interactions, Novelty@10 the mean "
    "self-information in bits, Gini@10 how unequally often items are recommended (0: all equally "
    "often), Serendipity@10 the share of test examples whose target is among the ten but not among "
    "the ten most popular items."
)

_CALIBRATION = (
    "ECE is the expected calibration error: the mean difference between the softmax probability "
    "of the first item and the share of test examples for which it is the target, over 15 bins of "
    "that probability."
)


def run_page(run: RunRecord, **navigation: Any) -> str:
    """Return the page of a run; ``navigation`` has links to other pages (``links``, ``here``)."""
    results = run.results or {}
    # Pages are shared, so they name files but not the folders of this machine.
    config = {
        name: Path(str(value)).name if value and name.endswith(_PLACES) else value
        for name, value in run.config.items()
    }
    data, origin = config.get("data_path"), dict[str, Any]()
    tables, notes = list[Table | None](), list[str]()
    if results:
        data = results["dataset"]["name"]
        test, valid = score_table(results, "test"), score_table(results, "valid")
        tables, notes = [test, cold_table(results), valid], [_NOTE]
        notes += [_CALIBRATION] * ("ece" in results["test"])
        origin = {"device": results["device"], **results["versions"]}
        if commit := results.get("commit"):  # runs of older versions have none
            origin["commit"] = commit
    return render(
        "page.html",
        title=f"{config.get('model')} on {data or config.get('dataset')}",
        subtitle=_subtitle(run),
        tiles=_tiles(run),
        pictures=run_pictures(run),
        tables=[table for table in tables if table is not None],
        notes=notes,
        facts={
            "Data": results.get("dataset"),
            "Protocol": results.get("protocol"),
            "Training": results.get("train"),
            "Tuning": results.get("tuning"),
            "Machine and versions": origin,
            "Configuration": config,
        },
        **navigation,
    )


def _subtitle(run: RunRecord) -> str:
    words = [f"run {run.name}", f"seed {run.config.get('seed')}"]
    if run.config.get("model") == "echomamba4rec":
        words.append(f"variant {run.config.get('variant')}")
    if run.results is None:
        words.append("not finished: test results appear here when the run has ended")
    else:
        words.append(f"{run.results['test']['examples']:,} test examples, every item ranked")
    return " · ".join(words)


def _tiles(run: RunRecord) -> list[tuple[str, str, str]]:
    """Return the headline numbers, each with label, value and note."""
    if run.results is not None:
        test, train = run.results["test"], run.results["train"]
        tiles = []
        for name in _HEADLINE:
            low, high = test["interval"][name]
            note = f"95 %: {low:.4f}–{high:.4f}"
            tiles.append((f"Test {name.upper()}", f"{test[name]:.4f}", note))
        rate = f"{train['examples_per_second']:,.0f} examples/s"
        return [*tiles, ("Training time", duration(train["seconds"]), rate)]
    if run.best is not None:
        note = f"epoch {run.best['epoch']}, the best so far"
        return [(f"Validation {m.upper()}", f"{run.best[m]:.4f}", note) for m in _HEADLINE]
    return []
