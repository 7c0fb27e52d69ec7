"""Titles of a run's items, and where its data lies now."""

from collections.abc import Callable
from glob import has_magic
from pathlib import Path

from echojax.config import Config
from echojax.data import item_titles
from echojax.data.titles import TITLED
from echojax.errors import UserError


def run_titles(
    kept: dict[str, str],
    config: Config,
    *,
    data_dir: str | None = None,
    data_path: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Return titles by item id; empty where there are none.

    Args:
        kept: those of the run folder, which come first; runs of earlier versions kept none.
        config: the run's configuration.
        data_dir: where the data lies now, if not where the run found it.
        data_path: where the run's own file lies now.
        say: prints one line.

    Raises:
        UserError: the data's titles cannot be read.
    """
    if kept:
        return kept
    path = data_path or config.data_path
    titles = item_titles(config.dataset, data_path=path, data_dir=data_dir or config.data_dir)
    if not titles and path is None and config.dataset in TITLED:
        say(
            f"titles not found; name the folder that holds {config.dataset} with --data-dir or "
            "$ECHOJAX_DATA"
        )
    return titles


def check_places(data_dir: str | None, data_path: str | None) -> None:
    """Raise ``UserError`` where data is said to lie that does not."""
    if data_dir is not None and not Path(data_dir).is_dir():
        raise UserError(f"--data-dir {data_dir} is no folder; check the path")
    if data_path is not None and not (Path(data_path).exists() or has_magic(data_path)):
        raise UserError(f"--data-path {data_path} is no file; check the path")
