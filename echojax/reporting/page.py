"""The page's HTML: headline, pictures, tables."""

from html import escape
from importlib.resources import files
from typing import Any

from echojax.reporting.html_tables import fact_table, score_table
from echojax.reporting.pictures import pictures
from echojax.reporting.run_record import RunRecord, label_of

_HEADLINE = ("ndcg@10", "hr@10", "mrr@10")


def page(run: RunRecord) -> str:
    """Return the whole page; it asks for nothing from outside."""
    title = escape(f"{run.config.get('model')} on {_data_name(run)}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{files("echojax.reporting").joinpath("page.css").read_text()}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="subtitle">{escape(_subtitle(run))}</p>
{_tiles(run)}
{_figures(run)}
{_scores(run)}
{_facts(run)}
</main>
</body>
</html>
"""


def _data_name(run: RunRecord) -> str:
    if run.results is not None:
        return str(run.results["dataset"]["name"])
    return str(run.config.get("data_path") or run.config.get("dataset"))


def _subtitle(run: RunRecord) -> str:
    words = [f"run {run.name}", f"seed {run.config.get('seed')}"]
    if run.config.get("model") == "echomamba4rec":
        words.append(f"variant {run.config.get('variant')}")
    if run.results is None:
        words.append("not finished: test results appear here when the run is over")
    else:
        words.append(f"{run.results['test']['examples']:,} test examples, every item ranked")
    return " · ".join(words)


def _tiles(run: RunRecord) -> str:
    """Return the scores that are asked for first."""
    if run.results is not None:
        test, train = run.results["test"], run.results["train"]
        tiles = [
            (f"Test {label_of(name)}", f"{test[name]:.4f}", _interval(test["interval"][name]))
            for name in _HEADLINE
        ]
        rate = f"{train['examples_per_second']:,.0f} examples/s"
        tiles.append(("Training time", _duration(train["seconds"]), rate))
    elif run.best is not None:
        note = f"epoch {run.best['epoch']}, the best so far"
        tiles = [(f"Validation {label_of(m)}", f"{run.best[m]:.4f}", note) for m in _HEADLINE]
    else:
        return ""
    shown = "\n".join(
        f'<div class="tile"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
        for label, value, note in tiles
    )
    return f'<div class="tiles">\n{shown}\n</div>'


def _figures(run: RunRecord) -> str:
    shown = "\n".join(
        f"<figure><h2>{escape(picture.title)}</h2>\n{picture.svg}"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures(run)
    )
    return f'<div class="pictures">\n{shown}\n</div>' if shown else ""


def _scores(run: RunRecord) -> str:
    if run.results is None:
        return ""
    return (
        f"<h2>Test scores</h2>\n{score_table(run.results, 'test')}\n"
        f"<h2>Validation scores</h2>\n{score_table(run.results, 'valid')}\n"
        '<p class="note-below">Beside each score stands its 95 % bootstrap interval over users. '
        "Coverage@10 is the share of the catalogue that is recommended to anybody, Popularity@10 "
        "the mean number of training interactions of what is recommended.</p>"
    )


def _facts(run: RunRecord) -> str:
    """Return what one needs to trust the numbers and to make them again."""
    results = run.results or {}
    tables = {
        "Data": results.get("dataset"),
        "Protocol": results.get("protocol"),
        "Training": results.get("train"),
        "Machine and versions": results and _origin(results),
        "Configuration": run.config,
    }
    sections = "\n".join(
        f"<section><h2>{title}</h2>\n{fact_table(facts)}</section>"
        for title, facts in tables.items()
        if facts
    )
    return f'<div class="facts">\n{sections}\n</div>'


def _origin(results: dict[str, Any]) -> dict[str, Any]:
    """Return device, versions and commit, which runs of older versions do not name."""
    commit = {"commit": results["commit"]} if results.get("commit") else {}
    return {"device": results["device"], **results["versions"], **commit}


def _interval(bounds: list[float]) -> str:
    return f"95 %: {bounds[0]:.4f}–{bounds[1]:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
