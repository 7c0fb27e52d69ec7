"""Ask trained runs in a browser: python experiments/explore.py --run-dir DIR."""

import sys
from dataclasses import dataclass
from pathlib import Path

from echojax.command_line import Terminal, log_to, parse
from echojax.compilation import use_compilation_cache
from echojax.errors import UserError, exit_on_user_error

_SCANS = Path(__file__).parent.parent / "benchmarks" / "scans-cpu" / "results.json"


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
    """Where the run's own file lies now (None: where it was)."""


def main() -> None:
    """Run the command."""
    console = Terminal(soft_wrap=True, highlight=False)
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        if not 1 <= len(flags.run_dir) <= 2:
            raise UserError(f"--run-dir takes one or two run folders, not {len(flags.run_dir)}")
        scans = flags.scans or _SCANS
        if flags.scans is not None and not scans.is_file():
            raise UserError(f"--scans {scans} is no file; name the JSON file of a comparison")
        try:
            from echojax.explore.server import listen, make_app, serve
        except ModuleNotFoundError as error:
            raise UserError(f"{error.name} is missing: pip install -e '.[explore]'") from None
        from echojax.explore.runs import check_same_items, read_explored

        log_to(console)
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


if __name__ == "__main__":
    main()
