"""The run folder: never overwritten, resumed only by the configuration that made it."""

import dataclasses
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec
import numpy as np

from echojax.config import RESUMABLE, Config, as_dict, check, flag, misfit
from echojax.data import Dataset
from echojax.errors import UserError, unknown_name
from echojax.files import read_json, read_record, write_json
from echojax.models import HEURISTICS, MODELS

log = logging.getLogger(__name__)

# Names of fields in the config.json of runs made before 2026-11-28.
_FORMER_NAMES = {
    "width": "d_model",
    "state_size": "d_state",
    "conv_width": "d_conv",
    "time_shards": "sequence_shards",
    "hosts": "num_processes",
    "host": "process_id",
}

# What a start that was killed, or an empty disk, has in a folder without a run.
_NO_RUN = ("items.json", ".items.json.", ".config.json.", ".lock", "lost+found")

_HEARTBEAT_SECONDS = 10.0


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


@contextmanager
def create_or_resume_run_dir(config: Config) -> Iterator[Path]:
    """Give the run folder, made where it is not there, with no other process training in it.

    It is taken back where it is new and nothing came of the run.

    Raises:
        UserError: the folder holds something and ``resume`` is off, or holds a run of another
            configuration.
        BusyError: another process trains in it.
        OSError: it cannot be made, or written.
    """
    path = Path(config.run_dir or default_run_dir(config))
    if path.exists() and not path.is_dir():
        raise UserError(f"--run-dir {path} is a file; name a folder")
    new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        _check_content(path, config)
        with lock(path):
            _check_content(path, config)  # another start may have come and gone meanwhile
            yield path
    finally:
        if new:
            with suppress(OSError):  # it holds a run
                path.rmdir()


def _check_content(path: Path, config: Config) -> None:
    """Raise ``UserError`` unless a folder is empty, or holds the run of this configuration."""
    if all(entry.name.startswith(_NO_RUN) for entry in path.iterdir()):
        return
    if not config.resume:
        raise UserError(
            f"run folder {path} exists; add --resume to go on, or name another --run-dir"
        )
    if not (path / "config.json").exists():
        raise UserError(f"{path} has files but no config.json of a run; name another --run-dir")
    stored = as_dict(read_config(path))
    for name, value in as_dict(config).items():
        if name not in RESUMABLE and stored[name] != value:
            raise UserError(
                f"run folder {path} was made with {flag(name)} {stored[name]}, not {value}; "
                f"leave {flag(name)} out, or name another --run-dir"
            )


class BusyError(UserError):
    """Another process trains in the run folder."""


class _Owner(TypedDict):
    host: str
    pid: int


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let no other process train in a run folder, on this machine or another that shares it.

    On one machine the operating system knows who holds the folder. Others, and file systems
    without such locks, see ``.lock``, which its owner touches every few seconds.

    Raises:
        BusyError: a process trains in it already.
    """
    file = path / ".lock"
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time_ns()}
    mine = json.dumps(owner).encode()
    folder = os.open(path, os.O_RDONLY)
    try:
        _make_lock_file(file, mine, locked=_try_flock(folder, path))
        released = threading.Event()
        beat = threading.Thread(target=_keep_alive, args=(file, released), daemon=True)
        beat.start()
        try:
            yield
        finally:
            released.set()
            beat.join()
            if _content(file) == mine:
                file.unlink(missing_ok=True)
    finally:
        os.close(folder)


def _try_flock(folder: int, path: Path) -> bool:
    """Lock an open folder; return whether its file system can."""
    try:
        import fcntl

        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(f"another process trains in {path}; wait for it, or stop it") from None
    except (ImportError, OSError):  # Windows, or a file system without locks
        return False
    return True


def _make_lock_file(file: Path, mine: bytes, *, locked: bool) -> None:
    """Make the lock file, whole at once; an earlier one goes where its owner is gone."""
    own = file.with_name(f"{file.name}.{socket.gethostname()}.{os.getpid()}")
    busy = BusyError(f"another process has begun in {file.parent}; wait for it, or stop it")
    if (found := _content(file)) is not None:
        _check_owner_is_gone(file, found, locked=locked)
        with suppress(FileNotFoundError):
            file.rename(own)
            if _content(own) != found:  # of who took the folder over in this moment
                own.rename(file)
                raise busy
    own.write_bytes(mine)
    try:
        os.link(own, file)
    except FileExistsError:
        raise busy from None
    except OSError:  # a file system without hard links
        try:
            with file.open("xb") as created:
                created.write(mine)
        except FileExistsError:
            raise busy from None
    finally:
        own.unlink()


def _content(file: Path) -> bytes | None:
    """Return what a lock file holds; ``None`` where there is none."""
    with suppress(FileNotFoundError):
        return file.read_bytes()
    return None


def _check_owner_is_gone(file: Path, content: bytes, *, locked: bool) -> None:
    """Raise ``BusyError`` if the owner of a lock file lives; elsewhere it gets time for a sign."""
    try:
        owner = msgspec.json.decode(content, type=_Owner)
    except msgspec.MsgspecError:  # half of one, from a file system without hard links
        owner = _Owner(host="another", pid=0)
    here = owner["host"] == socket.gethostname()
    if locked and (here or not owner["pid"]):
        return
    alive = False
    if here:
        alive = owner["pid"] != os.getpid() and _runs(owner["pid"])
    else:
        log.info(f"waiting to see whether {owner['host']} still trains in {file.parent} ...")
        with suppress(FileNotFoundError):  # it has just ended
            touched, until = file.stat().st_mtime_ns, time.monotonic() + 2.5 * _HEARTBEAT_SECONDS
            while not alive and time.monotonic() < until:
                time.sleep(_HEARTBEAT_SECONDS / 10)
                alive = file.stat().st_mtime_ns != touched
    if alive:
        raise BusyError(
            f"process {owner['pid']} of {owner['host']} trains in {file.parent}; wait for it, or "
            "stop it"
        )


def _runs(pid: int) -> bool:
    """Return whether this machine has a process of that number, anybody's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _keep_alive(file: Path, released: threading.Event) -> None:
    while not released.wait(_HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(file)


def read_config(path: Path) -> Config:
    """Return the configuration that a run folder was made with.

    Raises:
        UserError: no such folder, or its config.json is missing or not one of ours.
    """
    if not path.is_dir():
        why = "is a file; name the run folder" if path.exists() else "does not exist"
        raise UserError(f"run folder {path} {why}")
    file = path / "config.json"
    values = {_FORMER_NAMES.get(name, name): value for name, value in read_json(file).items()}
    if values.get("scan") == "fused":  # as it was called before 2026-11-28
        values["scan"] = "tiled"
    if not {field.name for field in dataclasses.fields(Config)}.issuperset(values):
        raise UserError(f"{file} is not the configuration of a run")
    for name, value in values.items():
        if problem := misfit(name, value):
            raise UserError(f"{file}: {name} {problem}; restore it from a copy")
    config = Config(**values)
    try:
        check(config)
        if config.model not in (known := [*MODELS, *HEURISTICS]):
            raise unknown_name("--model", config.model, known)
    except UserError as error:
        raise UserError(f"{file}: {error}; restore it from a copy") from None
    return config


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
    """Fill a new run folder; what makes it one, ``config.json``, comes last.

    Args:
        path: the folder.
        config: what it is made with.
        dataset: what it is made on.
        titles: by item id, kept for whoever asks the run without the data; maybe none.
    """
    path.mkdir(parents=True, exist_ok=True)
    item_ids = dataset.item_ids.tolist()
    items: dict[str, Any] = {
        "dataset": dataset.name,
        "sha256": dataset.fingerprint["sha256"],
        "item_ids": item_ids,
    }
    if titles:
        items["titles"] = [titles.get(item, "") for item in item_ids]
    write_json(path / "items.json", items)
    write_json(path / "config.json", as_dict(config))


class _Items(TypedDict):
    item_ids: list[str]
    titles: NotRequired[list[str]]


def read_items(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Return the items of the run in a folder.

    Returns:
        item_ids_V: the data's own ids by number, str (V,).
        titles: by id; empty where the run was started without.

    Raises:
        UserError: its items.json is missing or damaged.
    """
    items = read_record(path / "items.json", _Items)
    item_ids, titles = items["item_ids"], items.get("titles", [])
    if "titles" in items and len(titles) != len(item_ids):
        raise UserError(
            f"{path / 'items.json'} cannot be used: 'titles' and 'item_ids' differ in length; "
            "restore it from a copy"
        )
    pairs = zip(item_ids, titles, strict=False)
    return np.array(item_ids, dtype=str), {item: title for item, title in pairs if title}


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
