"""Tables, figures and pages: of a run, of a suite, of measurements, and to explore a run."""

from pathlib import Path

from echojax.files import write_atomically
from echojax.report.run_record import read_run
from echojax.report.run_tables import cold_table, results_table

__all__ = ["cold_table", "results_table", "write_report"]


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder, finished or not; return its path.

    Reads ``config.json``, ``metrics.jsonl``, ``results.json`` and ``insight.npz``; only the first
    must be there. The page needs nothing from outside and is written whole or not at all.
    """
    from echojax.report.run_page import run_page  # matplotlib: half a second, after a run only

    path = Path(run_dir) / "report.html"
    write_atomically(path, run_page(read_run(Path(run_dir))))
    return path
