"""The exported folder: what it answers without echojax, and what is never left half-written."""

import datetime
import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from echojax import Recommender
from echojax.config import Config
from echojax.errors import UserError
from echojax.interop.weights import weights
from echojax.models import build_model, with_sizes
from echojax.serving import export as exporting
from echojax.serving import export_run
from echojax.serving.export import export_program
from tests.conftest import ROOT
from tests.models.promises import EVERY_MODEL

FILES = ["items.json", "manifest.json", "program.jax_export", "weights.npz"]

# Runs a program where neither echojax nor what it builds on can be imported, then asks it more.
ALONE = """
import json, runpy, sys
sys.modules |= dict.fromkeys(["echojax", "selective_scan", "flax", "optax", "orbax", "grain"])
sys.argv = sys.argv[1:]
recommend = runpy.run_path(sys.argv[0])["recommend"]
print(json.dumps(recommend(json.load(sys.stdin), 10)))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Return the program of the documentation as a file."""
    section = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").split("\n## Export\n")[1]
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(section.split("```python\n")[1].split("```")[0], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def exported(call, ring_run, tmp_path_factory):
    """Return the folder that the command made of the small run, and what it printed."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    code, printed, err = call("export", "--run-dir", ring_run, "--output", folder)
    assert code == 0, err
    return folder, printed


@pytest.fixture
def copy(exported, tmp_path):
    """Return a copy of the exported folder, alone in its folder."""
    return Path(shutil.copytree(exported[0], tmp_path / "model"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.smoke
def test_the_program_of_the_readme_answers_as_the_recommender_does(
    program, exported, ring_run, tmp_path
):
    rng = np.random.default_rng(3)
    sizes = [1, 40, 8, 7, 2]  # the model reads the newest 8, and none of the 40 is recommended
    histories = [[f"i{n}" for n in rng.integers(30, size=size)] for size in sizes]
    histories[3].insert(2, "nowhere")
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", ALONE, program, exported[0], "i3,what,i4,i5"],
        input=json.dumps(histories), capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    recommender = Recommender.load(ring_run, batch_size=8)
    first, *expected = recommender.recommend([["i3", "i4", "i5"], *histories])
    assert [line.split()[1] for line in printed] == first.item_ids
    assert first.item_ids[0] == "i6"
    assert printed[0].endswith("Stop 6 (1996)")
    for answer, theirs in zip(json.loads(last), expected, strict=True):
        assert [item for item, _ in answer] == theirs.item_ids
        scores = [score for _, score in answer]
        np.testing.assert_allclose(scores, theirs.scores, rtol=1e-5, atol=1e-6)


def test_the_manifest_describes_the_folder(exported):
    folder, printed = exported
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert (manifest["model"], manifest["max_len"]) == ("echomamba4rec", 8)
    assert (manifest["items"], manifest["k"]) == (30, 30)  # 100 were asked for
    assert manifest["arguments"]["item_ids"] == "int32[b,8]"
    assert manifest["step"] == manifest["best_step"] > 0
    assert f"of step {manifest['step']}, 30 items" in printed
    assert manifest["jax"] == jax.__version__
    assert datetime.date.fromisoformat(manifest["loads_until"]) > datetime.date.today()
    for name, file in manifest["files"].items():
        assert file["bytes"] == (folder / name).stat().st_size
        assert f"{file['bytes']:,} bytes" in printed
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        assert sum(array.size for array in arrays.values()) == manifest["parameters"]
    # Nothing of the machine that it was made on.
    read = jax.export.deserialize(bytearray((folder / "program.jax_export").read_bytes()))
    text = read.mlir_module() + (folder / "manifest.json").read_text()
    assert str(ROOT) not in text
    assert ".py" not in text


@pytest.fixture
def load(program, copy, monkeypatch):
    """Return a function that runs the documentation's program on the copy."""

    def load():
        monkeypatch.setattr(sys, "argv", ["program.py", str(copy), "i3"])
        return runpy.run_path(str(program))

    return load


@pytest.mark.parametrize("name", ["items.json", "program.jax_export", "weights.npz"])
def test_the_program_notices_damage(load, copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(SystemExit, match=f"{name} is damaged; copy it again"):
        load()


def change_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": {}}, "is damaged; copy it again"),
        ({"jax": "99.12.0"}, r"needs jax 99\.12\.0 or later, not "),
    ],
)
def test_a_manifest_without_checksums_or_of_a_later_jax_is_refused(load, copy, changes, words):
    change_manifest(copy, **changes)
    with pytest.raises(SystemExit, match=words):
        load()


def test_a_newer_jax_after_the_promised_day_is_warned_of(load, copy, capsys):
    load()
    assert capsys.readouterr().err == ""
    change_manifest(copy, jax="0.1.0", loads_until="2020-02-02")
    load()
    assert "loads until 2020-02-02" in capsys.readouterr().err


def test_no_history_has_no_answer(load):
    assert load()["recommend"]([]) == []


# EchoMamba4Rec as corrected here, the first of them, is what the small run holds.
@pytest.mark.parametrize(
    "name", [pytest.param("official", marks=pytest.mark.slow), *EVERY_MODEL[1:]]
)
def test_every_model_is_exported_for_every_platform(name):
    chosen = {"variant": "official"} if name == "official" else {"model": name}
    config = Config(**chosen, max_len=5, d_model=4, scan="tiled")
    model = build_model(with_sizes(config), 12)
    program = export_program(model, 9)  # all that are left of two rows
    assert program.platforms == ("cpu", "cuda", "tpu")
    item_ids = np.array([[1, 2, 3, 4, 5], [11, 7, 0, 0, 0], [6, 6, 8, 0, 0]], np.int32)
    lengths, seen = np.array([5, 2, 3], np.int32), np.array([[1, 2], [7, 11], [0, 0]], np.int32)
    scores, numbers = program.call(weights(model), item_ids, lengths, seen)
    expected = np.array(jax.jit(lambda *batch: model.scores(*batch))(item_ids, lengths))
    expected[:, 0] = expected[0, [1, 2]] = expected[1, [7, 11]] = -np.inf
    best = np.argsort(-expected, axis=1)[:, :9]
    np.testing.assert_array_equal(numbers, best)
    expected = np.take_along_axis(expected, best, axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_what_the_manifest_says_of_a_file_is_on_the_disk(tmp_path, monkeypatch):
    (path := tmp_path / "weights.npz").write_bytes(b"content")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    sha256 = hashlib.sha256(b"content").hexdigest()
    assert exporting._size_and_checksum(path) == {"bytes": 7, "sha256": sha256}
    assert synced == [path.stat().st_ino]


def test_an_earlier_export_is_replaced(copy, ring_run):
    before = contents(copy)
    assert export_run(ring_run, copy, k=4)["k"] == 4
    after = contents(copy)
    assert after["weights.npz"] == before["weights.npz"]
    assert after["program.jax_export"] != before["program.jax_export"]
    assert os.listdir(copy.parent) == ["model"]


@pytest.fixture
def known_program(exported, monkeypatch):
    """Export what has been lowered already, where only files matter."""
    content = (exported[0] / "program.jax_export").read_bytes()
    program = jax.export.deserialize(bytearray(content))
    monkeypatch.setattr(exporting, "export_program", lambda model, k: program)


@pytest.mark.usefixtures("known_program")
def test_an_empty_folder_is_filled_and_not_renamed_over(ring_run, tmp_path):
    """A container's volume, also behind a link, in which an export was killed."""
    (tmp_path / "volume/lost+found").mkdir(parents=True)
    (tmp_path / "volume/.new.killed").mkdir()
    (tmp_path / "link").symlink_to("volume")
    inode = (tmp_path / "volume").stat().st_ino
    before = os.umask(0o077)
    try:
        export_run(ring_run, tmp_path / "link")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "volume").stat().st_ino == inode
    files = [path for path in (tmp_path / "volume").iterdir() if path.is_file()]
    assert sorted(path.name for path in files) == FILES
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


@pytest.mark.usefixtures("known_program")
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("stopped", ["items.json", "manifest.json", "rename"])
def test_what_is_interrupted_leaves_what_was_there(copy, ring_run, new, stopped, monkeypatch):
    output = copy.with_name("another") if new else copy
    before = contents(copy)
    rename, write = os.replace, exporting.write_json

    def stop_at_rename(source, target):
        if stopped == "rename" and Path(source).parts[-2:] == ("new", "items.json"):
            raise KeyboardInterrupt
        rename(source, target)

    def stop_at_write(path, value):
        if path.name == stopped:
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(os, "replace", stop_at_rename)
    monkeypatch.setattr(exporting, "write_json", stop_at_write)
    with pytest.raises(KeyboardInterrupt):
        export_run(ring_run, output, k=4)
    assert contents(copy) == before
    assert os.listdir(copy.parent) == ["model"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda output: (output / "notes.txt").write_text("mine"), "holds notes.txt"),
        (lambda output: (output / "manifest.json").unlink(), "has no manifest"),
        (lambda output: (output / "manifest.json").write_text("{}"), "of another program"),
        (lambda output: (shutil.rmtree(output), output.write_text("mine")), "is a file"),
        (lambda output: shutil.rmtree(output.parent), "does not exist"),
    ],
)
def test_what_is_no_export_is_not_replaced(copy, ring_run, change, words):
    change(copy)
    before = sorted(copy.parent.parent.rglob("*"))
    with pytest.raises(UserError, match=words):
        export_run(ring_run, copy)
    assert sorted(copy.parent.parent.rglob("*")) == before


def test_mistakes_are_one_line(call, ring_run, tmp_path):
    code, _, err = call("export", "--run-dir", ring_run, "--output", ring_run)
    assert code == 2
    assert err.count("\n") == 1
    assert "is no export" in err
    with pytest.raises(UserError, match="-k must be at least 1, not 0"):
        export_run(ring_run, tmp_path / "model", k=0)


def test_a_missing_flatbuffers_is_said(ring_run, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "jax._src.export.serialization", raising=False)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(UserError, match="pip install flatbuffers"):
        export_run(ring_run, tmp_path / "model")
    assert not os.listdir(tmp_path)
