"""Tables, figures and pages, for runs, suites, benchmarks and the page to explore runs."""

from pathlib import Path

from echojax.files import write_atomically
from echojax.report.run_record import read_run
from echojax.report.run_tables import cold_table, results_table

__all__ = ["cold_table", "results_table", "write_report"]


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder, finished or not; return its path.

    It is made from ``config.json``, ``metrics.jsonl``, ``results.json`` and ``insight.npz``, of
    which only the first must exist. The page is self-contained, and written atomically.
    """
    from echojax.report.run_page import run_page  # importing matplotlib takes half a second

    path = Path(run_dir) / "report.html"
    write_atomically(path, run_page(read_run(Path(run_dir))))
    return path
