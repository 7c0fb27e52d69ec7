"""``report.html``: one self-contained page about a run."""

from pathlib import Path

from echojax.files import write_atomically
from echojax.reporting.run_record import read_run


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder, finished or not; return its path.

    Reads ``config.json``, ``metrics.jsonl``, ``results.json`` and ``insight.npz``; only the first
    must be there. The page needs nothing from outside and is written whole or not at all.

    Raises:
        UserError: not a run folder, or a file in it is damaged.
    """
    from echojax.reporting.page import page  # matplotlib: half a second, only at the end of a run

    path = Path(run_dir) / "report.html"
    write_atomically(path, page(read_run(Path(run_dir))))
    return path
