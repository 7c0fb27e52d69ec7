"""The run folder: made once, never overwritten, resumed only by the configuration that made it."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from echojax.config import RESUMABLE, Config, as_dict, flag
from echojax.data import Dataset
from echojax.errors import UserError
from echojax.files import read_json, write_json
from echojax.kinds import fits, words
from echojax.shapes import misfit

_KINDS = typing.get_type_hints(Config)
# Names of fields in the config.json of runs made before 2026-11-28.
_FORMER_NAMES = {
    "width": "d_model",
    "state_size": "d_state",
    "conv_width": "d_conv",
    "time_shards": "sequence_shards",
    "hosts": "num_processes",
    "host": "process_id",
}


def default_run_dir(config: Config) -> str:
    """Return runs/DATASET-MODEL[-VARIANT]-seedN, or -seedsN where N seeds are trained."""
    data = Path(config.data_path).name.split(".")[0] if config.data_path else config.dataset
    variant = f"-{config.variant}" if config.model == "echomamba4rec" else ""
    seeds = f"seed{config.seed}" if config.seeds == 1 else f"seeds{config.seeds}"
    return f"runs/{data}-{config.model}{variant}-{seeds}"


def seed_folders(config: Config, folder: Path) -> list[tuple[Config, Path]]:
    """Return the configuration and the run folder of each seed that a run in ``folder`` trains."""
    if config.seeds == 1:
        return [(config, folder)]
    return [
        (dataclasses.replace(config, seed=seed, seeds=1, run_dir=None), folder / f"seed-{seed}")
        for seed in range(config.seed, config.seed + config.seeds)
    ]


def claim(config: Config) -> Path:
    """Return the run folder's path if this configuration may write there.

    Raises:
        UserError: the folder holds something and ``resume`` is off, or holds a run of another
            configuration.
    """
    path = Path(config.run_dir or default_run_dir(config))
    if path.exists() and not path.is_dir():
        raise UserError(f"--run-dir {path} is a file; name a folder")
    if not path.exists() or not any(path.iterdir()):
        return path
    if not config.resume:
        raise UserError(
            f"run folder {path} exists; add --resume to go on, or name another --run-dir"
        )
    if not (path / "config.json").exists():
        raise UserError(f"{path} has files but no config.json of a run; name another --run-dir")
    stored = dataclasses.asdict(read_config(path))
    for name, value in as_dict(config).items():
        if name not in RESUMABLE and stored[name] != value:
            raise UserError(
                f"run folder {path} was made with {flag(name)} {stored[name]}, not {value}; "
                f"leave {flag(name)} out, or name another --run-dir"
            )
    return path


class BusyError(UserError):
    """Another process trains in the run folder."""


@contextlib.contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Let no other process of this machine train in a run folder meanwhile.

    Raises:
        BusyError: one does already.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"another process trains in {path}; wait for it, or stop it") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(folder)


def read_config(path: Path) -> Config:
    """Return the configuration that a run folder was made with.

    Raises:
        UserError: no such folder, or its config.json is missing or not one of ours.
    """
    if not path.is_dir():
        problem = "is a file; name the run folder" if path.exists() else "does not exist"
        raise UserError(f"run folder {path} {problem}")
    values = read_json(path / "config.json")
    values = {_FORMER_NAMES.get(name, name): value for name, value in values.items()}
    fields = {field.name for field in dataclasses.fields(Config)}
    if not fields.issuperset(values):
        raise UserError(f"{path / 'config.json'} is not the configuration of a run")
    for name, value in values.items():
        if not fits(value, _KINDS[name]):
            raise UserError(
                f"{path / 'config.json'}: {name} must be {words(_KINDS[name])}, not {value!r:.80}; "
                "restore it from a copy"
            )
    return Config(**values)


def read_own_config(path: Path) -> Config:
    """Return the configuration of a run that left its checkpoints in this very folder.

    Raises:
        UserError: as ``read_config``, or the folder holds one folder for each of several seeds.
    """
    config = read_config(path)
    if config.seeds > 1:
        first = path / f"seed-{config.seed}"
        raise UserError(f"{path} holds the runs of {config.seeds} seeds; name one, such as {first}")
    return config


def write_start(path: Path, config: Config, dataset: Dataset, titles: Mapping[str, str]) -> None:
    """Make the folder, whole or not at all: filled under another name, then renamed.

    Args:
        path: the folder.
        config: what it is made with.
        dataset: what it is made on.
        titles: by item id, kept for whoever asks the run without the data; maybe none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    item_ids = dataset.item_ids.tolist()
    items: dict[str, Any] = {
        "dataset": dataset.name,
        "sha256": dataset.fingerprint["sha256"],
        "item_ids": item_ids,
    }
    if titles:
        items["titles"] = [titles.get(item, "") for item in item_ids]
    try:
        write_json(temporary / "items.json", items)
        write_json(temporary / "config.json", as_dict(config))
        temporary.chmod(0o755)
        os.replace(temporary, path)  # an empty folder may be there already
    except BaseException:
        shutil.rmtree(temporary)
        raise


def read_items(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Return the items of the run in a folder.

    Returns:
        item_ids_V: the data's own ids by number, str (V,).
        titles: by id; empty where the run was started without.

    Raises:
        UserError: its items.json is missing or damaged.
    """
    items = read_json(path / "items.json")
    titled = "titles" in items
    problem = misfit(items, {"item_ids": [str]} | ({"titles": [str]} if titled else {}))
    if titled and not problem and len(items["titles"]) != len(items["item_ids"]):
        problem = "'titles' and 'item_ids' differ in length"
    if problem:
        raise UserError(f"{path / 'items.json'} is damaged ({problem}); restore it from a copy")
    pairs = zip(items["item_ids"], items.get("titles", ()), strict=titled)
    return np.array(items["item_ids"], dtype=str), {item: title for item, title in pairs if title}


def identity(path: Path) -> dict[str, Any]:
    """Return what makes checkpoints those of the run in a folder, by name.

    Flags that no resumed run may change, and the SHA-256 of the data.

    Raises:
        UserError: as ``read_config``, or its items.json is missing or damaged.
    """
    flags = as_dict(read_config(path))
    return {
        **{flag(name): value for name, value in flags.items() if name not in RESUMABLE},
        "data's sha256": read_json(path / "items.json").get("sha256"),
    }


def check_same_data(path: Path, dataset: Dataset) -> None:
    """Raise ``UserError`` unless the run folder was made on exactly this data."""
    before, now = read_json(path / "items.json").get("sha256"), dataset.fingerprint["sha256"]
    if before != now:
        raise UserError(
            f"{dataset.name} is not what {path} was trained on (sha256 {now[:12]}, then "
            f"{str(before)[:12]}); restore the data, or name another --run-dir"
        )
