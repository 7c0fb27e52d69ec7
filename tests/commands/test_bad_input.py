"""Mistakes on the command line: one line that names what is wrong, exit code 2, nothing lost."""

import gzip
import json
import shutil
from importlib.util import find_spec

import pytest

from tests.conftest import SMALL

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"
ROWS = "".join(f"u{u}\ti{i}\t{i}\n" for u in range(6) for i in range(6))
FILES = {
    "missing": None,
    "empty": b"",
    "columns": b"who:token\twhat:token\n1\t2\n",
    "text": (HEADER + "u\ti\tnoon\n").encode(),
    "nan": (HEADER + ROWS + "u1\ti1\tnan\n").encode(),
    "one_user": (HEADER + "".join(f"u\ti{i}\t{i}\n" for i in range(9))).encode(),
    "binary": b"\xff\xfe\x00\x01" * 50,
}
SAYS = {
    "missing": "missing.inter",
    "empty": "empty.inter",
    "columns": "no user column",
    "text": "line 2",
    "nan": "line 38",
    "one_user": "user",
    "binary": "binary.inter",
}
FLAGS = {
    ("--max-len", "0"): "--max-len must be at least 1, not 0",
    ("--profile", "0"): "--profile must be at least 1, not 0",
    ("--profile", "some"): "--profile: INT expected, not 'some'",
    ("--batch-size", "-1"): "--batch-size must be at least 1, not -1",
    ("--dropout", "1"): "--dropout must be at least 0 and below 1",
    ("--learning-rate", "nan"): "--learning-rate must be above 0",
    ("--batch-size", "100", "--microbatch", "33"): "--microbatch 33",
    ("--negatives", "4"): "--negatives has no meaning for --loss softmax",
    ("--loss", "bce", "--gbce-t", "0.5"): "--gbce-t has no meaning for --loss bce",
    ("--loss", "gbce", "--gbce-t", "2"): "--gbce-t must be between 0 and 1",
    ("--loss", "bpr", "--label-smoothing", "0.1"): "--label-smoothing is for --loss softmax",
    ("--label-smoothing", "1"): "--label-smoothing must be at least 0 and below 1",
    ("--model", "sasrec", "--d-model", "9"): "--heads 2 does not divide --d-model 9",
    ("--d-model", "wide"): "--d-model: INT expected, not 'wide'",
    ("--epochs", "1e3"): "--epochs: INT expected, not '1e3'",
    ("--learning-rate", "1,0"): "--learning-rate: FLOAT expected, not '1,0'",
    ("--seed", "99999999999999999999"): "--seed must be below 4294967296",
    ("--model", "SASRec"): "unknown --model 'SASRec'; did you mean 'sasrec'?",
    ("--widht", "8"): "--widht",
    ("--dataset", "ml-1n"): "did you mean 'ml-1m'",
    ("--model", "echomamba"): "did you mean 'echomamba4rec'",
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
    ("--time-gaps", "--d-conv", "1"): "--time-gaps with a backward Mamba needs --d-conv 2",
}


def only_line(err):
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("name", FILES)
def test_files(name, call, tmp_path):
    path, folder = tmp_path / f"{name}.inter", tmp_path / "run"
    if FILES[name] is not None:
        path.write_bytes(FILES[name])
    code, _, err = call("train", "--data-path", path, *SMALL, "--run-dir", folder)
    assert code == 2, err
    assert SAYS[name] in only_line(err)
    assert not folder.exists()


def test_truncated_gzip(call, tmp_path):
    path, folder = tmp_path / "cut.inter.gz", tmp_path / "run"
    path.write_bytes(gzip.compress((HEADER + ROWS * 50).encode())[:-20])
    code, _, err = call("train", "--data-path", path, *SMALL, "--run-dir", folder)
    assert code == 2
    assert "cut.inter.gz" in only_line(err)
    assert not folder.exists()


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.smoke
def test_flags(flags, call, data_file, tmp_path):
    if flags == ("--tensorboard",) and find_spec("tensorboardX"):
        pytest.skip("tensorboardX is installed here")
    order = tmp_path / "order.txt"
    order.write_text("".join(f"u{u} i{i}\n" for u in range(6) for i in range(6)))
    flags = [{"FILE": data_file, "ORDER": order}.get(word, word) for word in flags]
    code, _, err = call("train", *flags, "--run-dir", tmp_path / "run")
    assert code == 2
    wanted = FLAGS[tuple({data_file: "FILE", order: "ORDER"}.get(w, w) for w in flags)]
    assert wanted in only_line(err)
    assert not (tmp_path / "run").exists()


def test_without_network_it_says_which_file_goes_where(call, tmp_path):
    args = ["--dataset", "ml-1m", "--data-dir", tmp_path, "--run-dir", tmp_path / "run"]
    code, _, err = call("train", *args)
    assert code == 2
    line = only_line(err)
    assert "ml-1m.inter.gz" in line
    assert str(tmp_path) in line


def test_an_existing_run_is_never_overwritten(finished, call, data_file):
    folder, _ = finished
    before = (folder / "config.json").read_bytes()
    args = ["--data-path", data_file, *SMALL, "--run-dir", folder]
    code, _, err = call("train", *args)
    assert code == 2
    assert "add --resume" in only_line(err)
    code, _, err = call("train", *args, "--resume", "--d-model", "16")
    assert code == 2
    assert "--d-model 8, not 16" in only_line(err)
    assert (folder / "config.json").read_bytes() == before


def test_other_data_under_a_run_is_refused(finished, call, data_file, tmp_path):
    folder, changed = tmp_path / "run", tmp_path / "ring.inter"
    shutil.copytree(finished[0], folder)
    changed.write_text(data_file.read_text().replace("u1\ti", "u1\tj", 1))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"data_path": str(changed)}))
    for name in ("train", "evaluate"):
        resume = ["--resume"] if name == "train" else []
        code, _, err = call(name, "--run-dir", folder, *resume)
        assert code == 2
        assert "sha256" in only_line(err)


def test_evaluate_wants_a_run(call, tmp_path):
    code, _, err = call("evaluate", "--run-dir", tmp_path / "nothing")
    assert code == 2
    assert "does not exist" in only_line(err)
    (tmp_path / "config.json").write_text("{")
    code, _, err = call("evaluate", "--run-dir", tmp_path)
    assert code == 2
    assert "config.json" in only_line(err)
