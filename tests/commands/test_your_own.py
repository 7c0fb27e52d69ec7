"""The page on models, data, losses and metrics of one's own does what it says; so do mistakes."""

import contextlib
import json
import re
import shlex

import pytest

import echojax
from tests.conftest import ROOT, reporting

PAGE = (ROOT / "docs" / "your-own.md").read_text()
MODULES, BLOCKS = {0: "lru.py", 3: "own.py"}, re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
SMALL = ["--max-steps", "3", "--max-len", "8", "--d-model", "8", "--checkpoint-every", "2"]


@pytest.mark.slow
@pytest.mark.usefixtures("registries")
def test_the_page_does_what_it_says(works, mistake, data_file, tmp_path, monkeypatch, capsys):
    """On fewer events, and for a few steps."""
    own_data = ["--data-path", data_file]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    python = [block for kind, block in BLOCKS if kind == "python"]
    for number, name in MODULES.items():
        (tmp_path / name).write_text(python[number])
    names = {}
    for kind, block in BLOCKS:
        if kind == "python" and block not in [python[number] for number in MODULES]:
            few = f"data={str(data_file)!r}, max_steps=1, max_len=8"
            exec(block.replace("epochs=1", few), names)
        for line in block.splitlines() if kind == "bash" else []:
            program, *words = shlex.split(line)
            assert program == "echojax"
            if words[0] == "train":
                words += SMALL if "--dataset" in words else [*SMALL, *own_data]
            with reporting() if "hinge" in words else contextlib.nullcontext():
                out = works(*words, cwd=tmp_path)
            if "--help" in words:
                text = " ".join(out.split())
                assert "--r-min FLOAT smallest decay at the start. (default: 0.5)" in text
    config = json.loads((tmp_path / "runs/lru/config.json").read_text())
    assert config["model_options"] == {"r_min": 0.8, "r_max": 0.99}
    assert config["plugin"] == str(tmp_path / "lru.py")
    assert names["runs"]["lru"].config.model == "lru"
    assert "p_holm" in capsys.readouterr().out
    assert (tmp_path / "model").is_dir()
    results = json.loads((tmp_path / "runs/clicks/results.json").read_text())
    for part in (results["test"], results["baselines"]["popularity"]["test"]):
        low, high = part["interval"]["hr@1"]
        assert 0 <= low <= part["hr@1"] <= high <= part["interval"]["hr@5"][1]
    clicks = echojax.Run.load(tmp_path / "runs/clicks")
    assert clicks.metrics["hr@1"] == clicks.evaluate()["hr@1"] == results["test"]["hr@1"]
    both = echojax.compare({"one": clicks, "other": clicks}, metric="hr@1")
    assert both["hr@1"].to_list() == [clicks.metrics["hr@1"]] * 2
    assert "HR@1<" in (tmp_path / "runs/clicks/report.html").read_text()
    again = ["train", "--run-dir", "runs/lru", "--resume"]
    assert "resumed from step 3" in works(*again, "--max-steps", "4", cwd=tmp_path)
    line = mistake(*again, "--r-max", "0.9", cwd=tmp_path)
    assert "was made with --r-max 0.99, not 0.9" in line
