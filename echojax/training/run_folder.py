"""The run folder: never overwritten, resumed only by the configuration that made it."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from echojax.arrays import write_arrays
from echojax.config import KINDS, RESUMABLE, Config, as_dict, as_flags, check, flag, misfit
from echojax.data import Dataset, ItemVectors, cache
from echojax.data.item_vectors import load_kept
from echojax.errors import UserError, unknown_name
from echojax.files import read_json, read_record, refuse_special, write_json
from echojax.lock import hold
from echojax.losses import LOSSES
from echojax.models import HEURISTICS, MODELS, check_parts, with_own_options
from echojax.plugins import load_plugin

# Names of fields in the config.json of runs made before 2026-11-28.
_FORMER_NAMES = {
    "width": "d_model",
    "state_size": "d_state",
    "conv_width": "d_conv",
    "time_shards": "sequence_shards",
    "hosts": "num_processes",
    "host": "process_id",
}

# Prefixes of the files that a killed start, or an empty disk, leaves in a folder without a run.
_NO_RUN = (
    *("data.npz", ".data.npz.", "item_vectors.npz", ".item_vectors.npz."),
    *("items.json", ".items.json.", ".config.json."),
    *(".lock", "lost+found"),
)

_DATA = "data.npz"  # the prepared data of a run on data from memory
_VECTORS = "item_vectors.npz"


def default_run_dir(config: Config) -> str:
    """Return runs/DATASET-MODEL[-VARIANT]-seedN, or -seedsN where N seeds are trained."""
    data = Path(config.data_path).name.split(".")[0] if config.data_path else config.dataset
    variant = f"-{config.variant}" if config.model == "echomamba4rec" else ""
    seeds = f"seed{config.seed}" if config.seeds == 1 else f"seeds{config.seeds}"
    return f"runs/{data}-{config.model}{variant}-{seeds}"


def seed_folders(config: Config, folder: Path) -> dict[Path, Config]:
    """Return the run folder and the configuration of each seed that a run in ``folder`` trains."""
    if config.seeds == 1:
        return {folder: config}
    return {
        folder / f"seed-{seed}": dataclasses.replace(config, seed=seed, seeds=1, run_dir=None)
        for seed in range(config.seed, config.seed + config.seeds)
    }


@contextmanager
def create_or_resume_run_dir(config: Config) -> Iterator[Path]:
    """Give the run folder, created if it does not exist, and lock it for this process.

    A new folder, with its new parents, is removed again if it is still empty at the end. It is a
    ``UserError`` if the folder is not empty and ``resume`` is off, or if it holds a run of another
    configuration.
    """
    path = Path(config.run_dir or default_run_dir(config))
    if path.exists() and not path.is_dir():
        raise UserError(f"--run-dir {path} is a file; name a folder")
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        _check_content(path, config)
        with lock(path):
            _check_content(path, config)  # another start may have come and gone meanwhile
            yield path
    finally:
        with suppress(OSError):  # not empty, as it holds a run
            for folder in new:
                folder.rmdir()


def _check_content(path: Path, config: Config) -> None:
    """Raise ``UserError`` unless a folder is empty, or holds the run of this configuration."""
    if all(entry.name.startswith(_NO_RUN) for entry in path.iterdir()):
        refuse_special(path)
        check_parts(config)  # runs started before 2026-11-30 go on with parts they never had
        return
    if not config.resume:
        raise UserError(
            f"run folder {path} exists; add --resume to go on, or name another --run-dir"
        )
    if not (path / "config.json").exists():
        raise UserError(f"{path} has files but no config.json of a run; name another --run-dir")
    check_same_flags(path, as_flags(config))


def check_same_flags(path: Path, given: Mapping[str, Any]) -> None:
    """Raise ``UserError`` if the run in a folder was made with other flags, which it must keep."""
    before = read_config(path)
    stored = as_flags(before)
    # A warm-up or a decay over a share of the steps changes with the number of steps.
    shares = before.warmup or before.schedule == "cosine"
    fixed = given.keys() - (RESUMABLE - {"epochs", "max_steps"} if shares else RESUMABLE)
    for name, value in given.items():
        if name in fixed and stored.get(name) != value:
            raise UserError(
                f"run folder {path} was made with {flag(name)} {stored.get(name)}, not {value}; "
                f"leave {flag(name)} out, or name another --run-dir"
            )


def check_resumed(config: Config) -> None:
    """Raise ``UserError`` if a flag that is given changes the run that is resumed.

    The flags of that run which do not go together with it would be named otherwise.
    """
    path = Path(config.run_dir or default_run_dir(config))
    if config.resume and (path / "config.json").exists():
        given = as_flags(config).items()
        check_same_flags(path, {name: value for name, value in given if value is not None})


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep other processes, also those of machines that share it, from training in a run folder."""
    folder = os.open(path, os.O_RDONLY)
    try:
        with hold(path / ".lock", folder, f"trains in {path}"):
            yield
    finally:
        os.close(folder)


def read_config(path: Path) -> Config:
    """Return the configuration of a run folder, in which there must be no pipe or device."""
    if not path.is_dir():
        why = "is a file; name the run folder" if path.exists() else "does not exist"
        raise UserError(f"run folder {path} {why}")
    file = path / "config.json"
    if file.exists():
        refuse_special(path)
    values = {_FORMER_NAMES.get(name, name): value for name, value in read_json(file).items()}
    if values.get("scan") == "fused":  # as it was called before 2026-11-28
        values["scan"] = "tiled"
    if values.get("model") == "lagged-count" and "lags" not in values:  # fixed until 2026-11-28
        values |= {"lags": 4, "damping": 0.5}
    if not KINDS.keys() >= values.keys():
        raise UserError(f"{file} is not the configuration of a run")
    for name, value in values.items():
        if problem := misfit(KINDS[name], value):
            raise UserError(f"{file}: {name} {problem}; restore it from a copy")
    config = Config(**values)
    try:
        check(config)
    except UserError as error:
        raise UserError(f"{file}: {error}; restore it from a copy") from None
    if config.plugin is not None:
        load_plugin(config.plugin, run=path)
    for kind, known in (("model", [*MODELS, *HEURISTICS]), ("loss", [*LOSSES])):
        if (name := getattr(config, kind)) not in known:
            raise UserError(
                f"{file}: {unknown_name(flag(kind), name, known)}; if a module of yours registers "
                'it, name the module there, as "plugin"'
            )
    try:
        with_own_options(config)
    except UserError as error:  # the model has changed since, or the file
        raise UserError(f"{file}: {error}, or put back what the run was made with") from None
    return config


def read_own_config(path: Path) -> Config:
    """Return the configuration of a run of one seed, whose folder has its own checkpoints."""
    config = read_config(path)
    if None in (config.max_len, config.batch_size):
        file = path / "config.json"
        raise UserError(f"{file}: max_len or batch_size is missing; restore it from a copy")
    if config.seeds > 1:
        raise several_seeds(path, config)
    return config


def several_seeds(path: Path, config: Config) -> UserError:
    """Return the error for the folder of several seeds where that of one is wanted."""
    first = path / f"seed-{config.seed}"
    return UserError(f"{path} holds the runs of {config.seeds} seeds; name one, such as {first}")


def fill_folders(
    folders: Mapping[Path, Config],
    dataset: Dataset,
    in_memory: Dataset | None = None,
    gap_unit: float | None = None,
) -> None:
    """Fill the run folders that are new; check that the others were made with this data and flags.

    The others keep those flags that a resumed run may change, so that it goes on with them. A
    folder keeps the titles of the data set, so that recommendations can show them without it, and
    the data set itself as it was given, if it was ``in_memory``. ``gap_unit`` is the unit of the
    gaps that the model reads, if it reads any.
    """
    for folder, config in folders.items():
        if (folder / "config.json").exists():
            check_same_data(folder, dataset)
            check_same_flags(folder, as_flags(config))
        else:
            _fill(folder, dataset, in_memory, gap_unit)
        # The run may go on from another folder than it began in.
        places = {"data_path": config.data_path, "data_dir": config.data_dir}
        places = {name: place and os.path.abspath(place) for name, place in places.items()}
        # It makes a folder that of a run, and so comes last.
        write_json(folder / "config.json", as_dict(config) | places)


def _fill(path: Path, dataset: Dataset, in_memory: Dataset | None, gap_unit: float | None) -> None:
    """Fill a new run folder with everything but its ``config.json``."""
    path.mkdir(parents=True, exist_ok=True)
    if in_memory is not None:
        cache.save(in_memory, path / _DATA)
    else:
        (path / _DATA).unlink(missing_ok=True)  # of a start that was killed
    item_ids = dataset.item_ids.tolist()
    items: dict[str, Any] = {
        "dataset": dataset.name,
        "sha256": dataset.fingerprint["sha256"],
        "item_ids": item_ids,
    }
    if dataset.titles:
        items["titles"] = [dataset.titles.get(item, "") for item in item_ids]
    if (vectors := dataset.item_vectors) is not None:
        items["item_vectors_sha256"] = vectors.sha256
        trained = np.array(vectors.trained)
        arrays = {"ids": vectors.ids_N, "vectors": vectors.vectors_NxF, "trained": trained}
        write_arrays(path / _VECTORS, arrays)
    if gap_unit is not None:
        items["gap_unit"] = gap_unit
    write_json(path / "items.json", items)


class _Items(TypedDict):
    item_ids: list[str]
    titles: NotRequired[list[str]]
    gap_unit: NotRequired[float]


def read_items(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Return the ids of a run's items by number, str (V,), and titles by id.

    There are no titles if the run was started without them.
    """
    items = read_record(path / "items.json", _Items)
    item_ids, titles = items["item_ids"], items.get("titles", [])
    padding, *others = item_ids or [""]
    wrong = ""
    if "titles" in items and len(titles) != len(item_ids):
        wrong = "'titles' and 'item_ids' differ in length"
    elif padding or len(set(others)) < len(others):
        wrong = "'item_ids' do not begin with \"\" for padding, or have an id twice"
    elif any("\ud800" <= char <= "\udfff" for char in set("".join([*others, *titles]))):
        wrong = "a text in it has half a character"
    if wrong:
        raise UserError(f"{path / 'items.json'} cannot be used: {wrong}; restore it from a copy")
    pairs = zip(item_ids, titles, strict=False)
    return np.array(item_ids, dtype=str), {item: title for item, title in pairs if title}


def read_gap_unit(path: Path, config: Config) -> float | None:
    """Return the unit of the time gaps that a run's model reads; ``None`` if it reads none."""
    if not config.time_gaps:
        return None
    unit = read_record(path / "items.json", _Items).get("gap_unit", 0.0)
    if not 0 < unit < math.inf:
        raise UserError(f"{path / 'items.json'} has no 'gap_unit' above 0; restore it from a copy")
    return unit


def keeps_data(path: Path) -> bool:
    """Return whether a run folder keeps the data set, which was given from memory."""
    return (path / _DATA).exists()


def kept_dataset(path: Path, name: str) -> Dataset | None:
    """Return the data set that a run folder keeps; ``None`` if the data are read from elsewhere."""
    try:
        return cache.load(name, path / _DATA)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        file = path / _DATA
        raise UserError(f"{file} cannot be read ({error}); restore it from a copy") from None


def kept_item_vectors(path: Path) -> ItemVectors:
    """Return the vectors of items 1..V-1 that the run in a folder was trained with."""
    vectors = load_kept(path / _VECTORS)
    items = read_json(path / "items.json")
    known = items.get("item_vectors_sha256"), items.get("item_ids")
    if known != (vectors.sha256, ["", *vectors.ids_N.tolist()]):
        raise UserError(f"{path / _VECTORS} is not what the run was trained with; restore it")
    return vectors


def identity(path: Path) -> dict[str, Any]:
    """Return what identifies the run in a folder, by name, for comparison with its checkpoints.

    These are the flags that a resumed run must not change, and the SHA-256 of the data.
    """
    flags, items = as_flags(read_config(path)), read_json(path / "items.json")
    return {
        **{flag(name): value for name, value in flags.items() if name not in RESUMABLE},
        "data's sha256": items.get("sha256"),
        **{name: items[name] for name in ("item_vectors_sha256",) if name in items},
    }


def check_same_data(path: Path, dataset: Dataset) -> None:
    """Raise ``UserError`` unless the run folder was made on exactly this data."""
    before, now = read_json(path / "items.json").get("sha256"), dataset.fingerprint["sha256"]
    if before != now:
        raise UserError(
            f"{dataset.name} is not what {path} was trained on (sha256 {now[:12]}, then "
            f"{str(before)[:12]}); restore the data, or name another --run-dir"
        )
