"""Explore trained runs in a browser."""

from dataclasses import dataclass
from pathlib import Path

from echojax.command_line import logged_terminal, parse
from echojax.errors import UserError

# Of a clone of the repository; it is not installed.
_SCANS = Path(__file__).parents[2] / "benchmarks" / "results" / "scans-cpu.json"


@dataclass(frozen=True)
class Flags:
    """Serve a page on this machine only: recommendations, what moved them, curves and filters."""

    run_dir: tuple[Path, ...]
    """The run folder; two of them answer side by side."""
    port: int = 8050
    """Port on 127.0.0.1; 0 takes a free one."""
    scans: Path | None = None
    """JSON file of a comparison of scans (None: the one in benchmarks/)."""
    data_dir: str | None = None
    """Folder that holds the data sets' files now (None: where the run found them)."""
    data_path: str | None = None
    """Where the run's own file is now (None: where it was)."""


def main(words: list[str]) -> None:
    """Run the command."""
    flags = parse(Flags, args=words)
    if not 1 <= len(flags.run_dir) <= 2:
        raise UserError(f"--run-dir takes one or two run folders, not {len(flags.run_dir)}")
    scans = flags.scans or _SCANS
    if flags.scans is not None and not scans.is_file():
        raise UserError(f"--scans {scans} is no file; name the JSON file of a comparison")
    try:
        from echojax.explore.server import listen, make_app, serve
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing: pip install 'echojax[explore]'") from None
    from echojax.compilation import use_compilation_cache
    from echojax.explore.runs import check_same_items, read_explored

    console = logged_terminal()
    listening = listen(flags.port)
    use_compilation_cache()
    runs = [
        read_explored(folder, data_dir=flags.data_dir, data_path=flags.data_path)
        for folder in flags.run_dir
    ]
    check_same_items(runs)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    console.print(f"open {address} in a browser; Ctrl-C stops")
    serve(make_app(runs, scans if scans.is_file() else None), listening)
