"""Every reader of files: what its inputs are made from, how it is called, what a parse must be."""

import gzip
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from echojax.data import Columns, Preparation, item_titles
from echojax.data.cache import load as load_prepared
from echojax.data.cache import save as save_prepared
from echojax.data.dataset import prepare
from echojax.data.events import read_events
from echojax.data.ids import ids_by_number
from echojax.data.layouts import FORMATS
from echojax.data.text import TextFile
from echojax.errors import UserError
from echojax.report import results_table
from echojax.report.run_record import read_run
from echojax.suites.results import read_run_folder
from echojax.suites.suite_file import read_suite
from echojax.training.builders import resolved
from echojax.training.checkpoints import Checkpoints
from echojax.training.progress import MetricLog
from echojax.training.run_folder import read_config, read_items
from echojax.training.step import create_state
from tests.fuzzing import examples
from tests.fuzzing.mutations import (
    in_gzip,
    in_zip,
    mutate_bytes,
    mutate_json,
    mutate_json_lines,
    mutate_npz,
    mutate_text,
)


@dataclass(frozen=True)
class Target:
    """A reader: it is given a folder with ``file``, which is one of ``valid`` and mutated.

    ``read`` raises AssertionError where a parse is wrong; ``share`` is of all inputs, relative to
    the other readers' share; ``beside`` are other files of the folder, by name.
    """

    file: str
    valid: list[bytes]
    mutate: Callable[..., bytes]
    read: Callable[[Path], Any]
    share: float = 1.0
    beside: Mapping[str, bytes] = field(default_factory=dict)

    def inputs(self, count, folder, rng):
        """Yield what reads each of so many inputs; the first one is valid."""
        for name, content in self.beside.items():
            (folder / name).write_bytes(content)
        for number in range(count):
            content = self.mutate(rng.choice(self.valid), rng) if number else self.valid[0]
            (folder / self.file).write_bytes(content)
            yield partial(self.read, folder)


class CheckpointTarget:
    """A saved checkpoint with one of its files changed: the state that was saved, or a line."""

    share = 0.5  # each input takes 50 times as long

    def __init__(self, folder):
        _, state = create_state(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), optax.adam(1e-3), 0)
        self.saved, self.state = folder, jax.device_get(state._replace(step=jnp.int32(7)))
        self.progress = {"steps": 7, "best_step": 7, "best_ndcg": 0.25, "seconds": 1.5}
        checkpoints = Checkpoints(folder)
        checkpoints.save(self.state, self.progress)
        checkpoints.close()

    def inputs(self, count, folder, rng):
        """Yield what reads each of so many copies, of which one file is changed or missing."""
        for _ in range(count):
            shutil.rmtree(folder)
            shutil.copytree(self.saved, folder)
            path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
            if rng.random() < 0.1:
                path.unlink()
            else:
                path.write_bytes(mutate_bytes(path.read_bytes(), rng))
            yield partial(self.read, folder)

    def read(self, folder):
        checkpoints = Checkpoints(folder)
        try:
            found = checkpoints.restore(self.state)
        finally:
            checkpoints.close()
        assert found is not None, "no checkpoint, and no line about it"
        assert found.progress == self.progress, "another progress"
        same = jax.tree.map(np.array_equal, found.state, self.state)
        assert all(jax.tree.leaves(same)), "another state"


def all_targets(folder):
    """Return the readers by name; ``folder`` is for what must be made first."""
    return {
        **_event_targets(),
        **_title_targets(),
        **_run_folder_targets(),
        "suite.toml": Target(
            "suite.toml", [examples.SUITE], mutate_text, lambda f: read_suite(f / "suite.toml")
        ),
        "prepared.npz": Target("p.npz", [_prepared(folder)], mutate_npz, _read_prepared),
        "checkpoints": CheckpointTarget(folder / "checkpoint"),
    }


def _event_targets():
    def target(file, *texts, mutate=mutate_text, **how):
        return Target(file, [*texts], mutate, partial(_read_events, file, **how))

    formats = examples.EVENTS
    targets = {"interactions, plain": target("x.txt", *(text for _, text in formats.values()))}
    for name, (file, text) in formats.items():
        targets[name] = target(file, text)
        targets[f"{name}, forced"] = target("x.bin", text, data_format=name)
        targets[f"{name}.gz"] = target(f"{file}.gz", text, mutate=in_gzip)
    for name, table in examples.columnar().items():
        targets[name] = target(f"x.{name}", table)
    for archive, member, kind in (
        ("ml-100k.zip", "ml-100k/u.data", "u.data"),
        ("ml-1m.zip", "ml-1m/ratings.dat", "ratings.dat"),
        ("recbole.whl", "recbole/dataset_example/ml-100k/ml-100k.inter", "inter"),
    ):
        name, text = f"{archive}: {member}", formats[kind][1]
        targets[name] = target(archive, text, mutate=in_zip(member), member=member)
    return targets


def _read_events(file, folder, data_format=None, member=None):
    found = read_events([TextFile(folder / file, member)], Columns(data_format=data_format))
    assert found.layout.data_format in FORMATS
    assert found.frame.height > 0
    for column in (found.frame["user"], found.frame["item"]):
        ids = ids_by_number(column)
        assert np.array_equal(column.to_physical().unique(), np.arange(ids.len()))
        assert all(ids)
    assert "time" not in found.frame.columns or found.frame["time"].is_finite().all()
    for duplicates in ("keep", "last"):
        dataset = prepare(file, found.frame, Preparation(k_core=1, duplicates=duplicates))
        assert dataset.items_T.min() == 1
        assert dataset.items_T.max() == dataset.num_items - 1


def _title_targets():
    def target(file, text, mutate=mutate_text, name=None):
        def read(folder):
            if name:
                return item_titles(name, data_dir=folder)
            return item_titles("x", data_path=folder / "x.inter")

        return Target(file, [text], mutate, read)

    item, movies, u_item = examples.TITLES
    return {
        "titles": target("x.item", item),
        "titles.gz": target("x.item.gz", item, in_gzip),
        "titles, u.item": target("u.item", u_item, name="ml-100k"),
        "titles, ml-1m.zip": target("ml-1m.zip", movies, in_zip("ml-1m/movies.dat"), "ml-1m"),
        "titles, ml-100k.zip": target("ml-100k.zip", u_item, in_zip("ml-100k/u.item"), "ml-100k"),
    }


def _run_folder_targets():
    def whole(folder):
        record = read_run(folder)
        assert record.best is None or record.best["ndcg@10"] <= 1e300
        if record.results is not None:
            results_table(record.results)

    def log(folder):
        whole(folder)
        with MetricLog(folder, 4, read_config(folder)) as again:
            again.write({"kind": "train", "step": 5, "epoch": 1.0, "loss": 1.0})

    def target(file, valid, mutate, read, share=1.0):
        others = {"config.json": examples.CONFIG}
        if file == "ranks.npz":
            others["results.json"] = examples.RESULTS
        others.pop(file, None)
        return Target(file, valid, mutate, read, share, others)

    readers = {
        "config.json": ([examples.CONFIG], mutate_json, lambda f: resolved(read_config(f)), 2),
        "items.json": ([examples.ITEMS], mutate_json, read_items),
        "metrics.jsonl": ([examples.METRICS], mutate_json_lines, log),
        "results.json": ([examples.RESULTS], mutate_json, whole, 2),
        "ranks.npz": (examples.RANKS, mutate_npz, read_run_folder),
        "insight.npz": (examples.INSIGHT, mutate_npz, read_run),
    }
    return {file: target(file, *how) for file, how in readers.items()}


def _prepared(folder):
    text = folder / "x.inter"
    text.write_bytes(gzip.compress(examples.EVENTS["inter"][1]))
    found = read_events([TextFile(text)])
    save_prepared(prepare("x", found.frame, Preparation(k_core=0)), folder / "prepared.npz")
    return (folder / "prepared.npz").read_bytes()


def _read_prepared(folder):
    try:
        load_prepared("x", folder / "p.npz")
    except (OSError, ValueError) as error:  # logged, and prepared again
        raise UserError(str(error)) from None
