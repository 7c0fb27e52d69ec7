"""``page.html``: everything about a comparison on one page that asks for nothing from outside."""

from html import escape
from importlib.resources import files

from echojax.measured_folder import Results
from echojax.reporting.html_tables import fact_table
from echojax.scan_comparison.measure import Row
from echojax.scan_comparison.pictures import LINES, Picture
from echojax.scan_comparison.record import problems_of, rows_of
from echojax.scan_comparison.roofline import FORMULA
from echojax.scan_comparison.table import HEADINGS, cells_of, milliseconds, notes_of

_METHOD = (
    "Times are medians of runs of compiled programs until their results are there, all programs "
    "of one size taking turns. ns each is the time over B·L·E·N. Memory is the compiled "
    "program's arguments, outputs and temporary arrays. Errors are the largest absolute "
    "difference from a float64 oracle over the largest absolute expected value, on a few evenly "
    "spread batch entries and channels of the very program that is timed, at whole length; the "
    "gradient error is the worst over all arguments. Memory, compile time and errors stand for "
    "the program with the backward pass."
)


def page(results: Results, pictures: list[Picture]) -> str:
    """Return the page's HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Selective scans compared</title>
<style>
{files("echojax.reporting").joinpath("page.css").read_text()}{_line_colours()}</style>
</head>
<body>
<main>
<h1>Selective scans compared</h1>
<p class="subtitle">{escape(_subtitle(results))}</p>
{_tiles(results)}
{_figures(pictures)}
{_tables(results)}
<p class="note-below">{escape(_METHOD)}</p>
<p class="note-below">{escape(FORMULA)}</p>
{_facts(results)}
</main>
</body>
</html>
"""


def _line_colours() -> str:
    light, dark = (
        " ".join(f"--line-{place}: {pair[shade]};" for place, pair in enumerate(LINES))
        for shade in (0, 1)
    )
    return (
        f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        ".numbers thead th + th { white-space: normal; vertical-align: bottom; }\n"
        ".numbers tbody td:nth-child(2) { font-weight: inherit; }\n"
        ".numbers tbody td.best { font-weight: 600; }\n"
    )


def _subtitle(results: Results) -> str:
    machine = results["machine"]
    words = [f"{machine['device']} ({machine['platform']})", machine["processor"]]
    words += [f"{machine['cores']} cores", results["date"]]
    if not results["finished"]:
        words.append("not finished")
    return " · ".join(words)


def _tiles(results: Results) -> str:
    tiles = []
    problems = problems_of(results)
    if problems:
        shape, dtype = problems[0]
        for which, label in (("forward", "forward"), ("forward+backward", "with backward")):
            rows = [r for r in rows_of(results, shape, dtype) if r["pass"] == which]
            best = fastest(rows, "median_seconds")
            if best is not None:
                value = f"{milliseconds(best['median_seconds'])} ms"
                note = f"{best['implementation']}, {shape}"
                tiles.append((f"Fastest {label}", value, note))
    if results["roofline"]:
        bandwidth, rate = results["roofline"].values()
        tiles.append(("Copy bandwidth", f"{bandwidth / 1e9:,.3g} GB/s", "read and written"))
        tiles.append(("Exponentials", f"{rate / 1e9:,.3g} billion/s", "float32"))
    shown = "\n".join(
        f'<div class="tile"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
        for label, value, note in tiles
    )
    return f'<div class="tiles">\n{shown}\n</div>' if tiles else ""


def fastest(rows: list[Row], value: str) -> Row | None:
    """Return the row with the least of a value among those that have it."""
    return min((r for r in rows if r[value] is not None), key=lambda r: r[value], default=None)


def _figures(pictures: list[Picture]) -> str:
    shown = "\n".join(
        f"<figure><h2>{escape(picture.title)}</h2>\n{picture.svg}"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="pictures">\n{shown}\n</div>' if shown else ""


def _tables(results: Results) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
    parts = []
    for shape, dtype in problems_of(results):
        rows = rows_of(results, shape, dtype)
        best = {
            1 + 3 * place: fastest([r for r in rows if r["pass"] == which], "median_seconds")
            for place, which in enumerate(("forward", "forward+backward"))
        }
        body = "\n".join(
            f"<tr><th>{escape(name)}</th>"
            + "".join(
                f"<td{_best_class(best.get(column), name)}>{escape(cell)}</td>"
                for column, cell in enumerate(cells, 1)
            )
            + "</tr>"
            for name, *cells in cells_of(rows)
        )
        notes = "".join(f'<p class="note-below">{escape(note)}</p>\n' for note in notes_of(rows))
        parts.append(
            f'<h2>{escape(f"{shape}  {dtype}")}</h2>\n<div class="scroll"><table class="numbers">'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n{notes}"
        )
    return "\n".join(parts)


def _best_class(best: Row | None, name: str) -> str:
    return ' class="best"' if best is not None and best["implementation"] == name else ""


def _facts(results: Results) -> str:
    machine, settings = results["machine"], results["settings"]
    about = {name: value for name, value in machine.items() if name != "versions"}
    kept = {name: settings[name] for name in ("implementations", "seconds", "max_memory_gib")}
    kept["command"] = results["command"]
    sections = {"Machine": about, "Versions": machine["versions"], "Settings": kept}
    if results["not_here"]:
        sections["Not measured here"] = results["not_here"]
    shown = "\n".join(
        f"<section><h2>{escape(title)}</h2>\n{fact_table(facts)}</section>"
        for title, facts in sections.items()
    )
    return f'<div class="facts">\n{shown}\n</div>'
