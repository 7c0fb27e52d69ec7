"""Mistakes on the command line: one line that names what is wrong, exit code 2, nothing lost."""

import gzip
import json
import shutil
from importlib.util import find_spec

import pytest

from tests.conftest import SMALL

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"
ROWS = "".join(f"u{u}\ti{i}\t{i}\n" for u in range(6) for i in range(6))
FILES = {  # by name the content, and what is said of it
    "missing.inter": (None, "missing.inter"),
    "empty.inter": (b"", "empty.inter"),
    "columns.inter": (b"who:token\twhat:token\n1\t2\n", "no user column"),
    "text.inter": ((HEADER + "u\ti\tnoon\n").encode(), "line 2"),
    "nan.inter": ((HEADER + ROWS + "u1\ti1\tnan\n").encode(), "line 38"),
    "one_user.inter": ((HEADER + "".join(f"u\ti{i}\t{i}\n" for i in range(9))).encode(), "user"),
    "binary.inter": (b"\xff\xfe\x00\x01" * 50, "binary.inter"),
    "cut.inter.gz": (gzip.compress((HEADER + ROWS * 50).encode())[:-20], "cut.inter.gz"),
}
FLAGS = {
    ("--recipe", ""): "--recipe has an empty value; give one, or leave it out",
    ("--data-path=",): "--data-path has an empty value",
    ("--max-len", "0"): "--max-len must be at least 1, not 0",
    ("--profile", "0"): "--profile must be at least 1, not 0",
    ("--profile", "some"): "--profile: INT expected, not 'some'",
    ("--batch-size", "100", "--microbatch", "33"): "--microbatch 33",
    ("--negatives", "4"): "--negatives has no meaning for --loss softmax",
    ("--loss", "bce", "--gbce-t", "0.5"): "--gbce-t has no meaning for --loss bce",
    ("--loss", "bpr", "--label-smoothing", "0.1"): "--label-smoothing is for --loss softmax",
    ("--model", "sasrec", "--d-model", "9"): "--heads 2 does not divide --d-model 9",
    ("--d-model", "wide"): "--d-model: INT expected, not 'wide'",
    ("--learning-rate", "1,0"): "--learning-rate: FLOAT expected, not '1,0'",
    ("--model", "SASRec"): "unknown --model 'SASRec'; did you mean 'sasrec'?",
    ("--widht", "8"): "--widht",
    ("--dataset", "ml-1n"): "did you mean 'ml-1m'",
    ("--scan", "tilled"): "did you mean 'tiled'",
    ("--preset", "ml-100k"): "--preset",
    ("--tensorboard",): "pip install 'echojax[tensorboard]'",
    ("--data-format", "parquet", "--data-path", "FILE"): "parquet",
    ("--split", "global-time", "--data-path", "ORDER"): "--split",
    ("--time-gaps", "--data-path", "ORDER"): "--time-gaps needs times",
    ("--time-gaps", "--model", "gru4rec"): "--time-gaps is for echomamba4rec, mamba4rec, sasrec",
    ("--time-gaps", "--model", "markov"): "--time-gaps is for echomamba4rec, mamba4rec, sasrec",
    ("--time-gaps", "--split", "cold-items"): "--time-gaps is not for --split cold-items",
    ("--time-gaps", "--variant", "official"): "--time-gaps is for an EchoMamba4Rec that reads no",
    ("--model", "sasrec", "--variant", "causal"): "--variant has no meaning for --model sasrec",
    ("--model", "fmlp-rec", "--no-filter"): "--filter has no meaning for --model fmlp-rec",
    ("--model", "gru4rec", "--mask-padding", "False"): "--mask-padding has no meaning for",
    ("--time-gaps", "--d-conv", "1"): "--time-gaps with a backward Mamba needs --d-conv 2",
}


@pytest.mark.parametrize("name", FILES)
def test_files(name, mistake, tmp_path):
    path, folder = tmp_path / name, tmp_path / "run"
    content, says = FILES[name]
    if content is not None:
        path.write_bytes(content)
    assert says in mistake("train", "--data-path", path, *SMALL, "--run-dir", folder)
    assert not folder.exists()


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.smoke
def test_flags(flags, mistake, data_file, tmp_path):
    if flags == ("--tensorboard",) and find_spec("tensorboardX"):
        pytest.skip("tensorboardX is installed here")
    order = tmp_path / "order.txt"
    order.write_text("".join(f"u{u} i{i}\n" for u in range(6) for i in range(6)))
    words = [{"FILE": data_file, "ORDER": order}.get(word, word) for word in flags]
    assert FLAGS[flags] in mistake("train", *words, "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["--data-dir", "--data-path"])
def test_data_that_are_not_there_are_named_though_the_run_keeps_its_own(name, mistake, tmp_path):
    """The run folder is read later: data from memory are in it, and nothing else is looked for."""
    line = mistake("evaluate", "--run-dir", tmp_path, name, tmp_path / "nowhere")
    assert f"{name} {tmp_path / 'nowhere'} is no f" in line


def test_without_network_it_says_which_file_goes_where(mistake, tmp_path):
    args = ["--dataset", "ml-1m", "--data-dir", tmp_path, "--run-dir", tmp_path / "run"]
    line = mistake("train", *args)
    assert "ml-1m.inter.gz" in line
    assert str(tmp_path) in line


def test_an_existing_run_is_never_overwritten(finished, mistake, data_file):
    folder, _ = finished
    before = (folder / "config.json").read_bytes()
    args = ["--data-path", data_file, *SMALL, "--run-dir", folder]
    assert "add --resume" in mistake("train", *args)
    assert "--d-model 8, not 16" in mistake("train", *args, "--resume", "--d-model", "16")
    assert (folder / "config.json").read_bytes() == before


def test_other_data_under_a_run_is_refused(finished, mistake, data_file, tmp_path):
    folder, changed = tmp_path / "run", tmp_path / "ring.inter"
    shutil.copytree(finished[0], folder)
    changed.write_text(data_file.read_text().replace("u1\ti", "u1\tj", 1))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"data_path": str(changed)}))
    assert "sha256" in mistake("train", "--run-dir", folder, "--resume")
    assert "sha256" in mistake("evaluate", "--run-dir", folder)


def test_evaluate_wants_a_run(mistake, tmp_path):
    assert "does not exist" in mistake("evaluate", "--run-dir", tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in mistake("evaluate", "--run-dir", tmp_path)
