"""One run from the command line: what it leaves, how it resumes, how it is evaluated again."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from echojax.errors import UserError
from echojax.machine import commit
from echojax.training.loop import _next_batch
from tests.commands.conftest import wait_until
from tests.conftest import SMALL, WHOLE

METRICS = [f"{kind}@{k}" for kind in ("hr", "ndcg", "mrr") for k in (5, 10, 20)]


def steps(folder):
    """Return the steps that have a checkpoint."""
    return {int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdigit()}


def checksums(folder):
    """Return the checksum of the state of each step that has a checkpoint."""
    metadata = {step: folder / f"checkpoints/{step}/meta/metadata" for step in steps(folder)}
    return {step: json.loads(path.read_text())["sha256"] for step, path in metadata.items()}


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["kind"], line["step"], line["loss"]) for line in lines]


@pytest.mark.smoke
def test_run_folder_holds_everything(finished):
    folder, out = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json", "metrics.jsonl", "results.json", "checkpoints", "items.json",
        "insight.npz", "ranks.npz", "report.html",
    }  # fmt: skip
    results = json.loads((folder / "results.json").read_text())
    for part in (results["valid"], results["test"], results["baselines"]["markov"]["test"]):
        for name in METRICS:
            low, high = part["interval"][name]
            assert 0 <= low <= part[name] <= high <= 1
    assert results["dataset"]["users"] == 60
    assert results["train"]["steps"] == 8 * -(-results["train"]["examples"] // 64)
    assert set(results["baselines"]) == {"popularity", "markov", "lagged-count"}
    assert results["config"]["max_len"] == 8
    assert results["commit"] == commit()
    assert "cpu" in results["device"]
    assert "ml" not in json.loads((folder / "items.json").read_text())["item_ids"]
    assert "compiling the training step" in out
    assert "Markov" in out


@pytest.mark.smoke
def test_it_learns(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    assert results["test"]["hr@10"] > results["baselines"]["popularity"]["test"]["hr@10"] + 0.1


@pytest.mark.smoke
def test_evaluate_gives_the_same_numbers(finished, works, tmp_path):
    folder, _ = finished
    results = json.loads((folder / "results.json").read_text())
    for part in ("valid", "test"):
        output = tmp_path / f"{part}.json"
        out = works("evaluate", "--run-dir", folder, "--split", part, "--output", output)
        step = results["train"]["best_step"]
        assert json.loads(output.read_text()) == {"step": step, **results[part]}
        assert f"hr@10    {results[part]['hr@10']:.6f}" in out


def test_evaluate_gives_the_metrics_that_are_asked_for(finished, works, mistake, tmp_path):
    folder, _ = finished
    test = json.loads((folder / "results.json").read_text())["test"]
    ask, output = ["evaluate", "--run-dir", folder], tmp_path / "found.json"
    out = works(*ask, "--metrics", "recall, gini,ece", "--ks", "10,1", "--output", output)
    found = json.loads(output.read_text())
    assert list(found) == ["step", "recall@10", "recall@1", "gini@10", "gini@1", "ece", "interval",
                           "examples"]  # fmt: skip
    assert [found["recall@10"], found["gini@10"], found["ece"]] == [
        test["hr@10"], test["gini@10"], test["ece"]
    ]  # fmt: skip
    low, high = found["interval"]["recall@1"]
    assert f"recall@1  {found['recall@1']:.6f}  [{low:.6f}, {high:.6f}]" in out
    assert f"gini@1   {found['gini@1']:.6f}\n" in out
    for words, says in (
        (["--metrics", "recal"], "unknown metric 'recal'; did you mean 'recall'"),
        (["--metrics", "gini@99"], "gini@99: there are only 30 items"),
        (["--ks", "5,99"], "hr@99: there are only 30 items"),
        (["--ks", "0"], "--ks takes whole numbers of at least 1, such as 5,10, not 0"),
        (["--ks", "5,ten"], "--ks takes whole numbers between commas, such as 5,10, not 'ten'"),
    ):
        assert says in mistake(*ask, *words)


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits(finished, start, works, data_file, tmp_path):
    folder = tmp_path / "killed"
    args = ["--data-path", data_file, *WHOLE]
    args += ["--run-dir", folder, "--resume"]
    # Killed as soon as the folder is there, then after some checkpoints.
    for least in (-1, 20):
        process = start("train", *args)
        wait_until(lambda: folder.exists() and max(steps(folder), default=0) > least, process)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.communicate()
    out = works("train", *args)
    assert "resumed from step" in out
    whole = finished[0]
    last = max(checksums(whole))
    assert checksums(folder)[last] == checksums(whole)[last]
    assert losses(folder) == losses(whole)
    ours, theirs = (json.loads((f / "results.json").read_text()) for f in (folder, whole))
    assert ours["test"] == theirs["test"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_say_how_to_go_on(finished, start, works, data_file, tmp_path, kind):
    folder = tmp_path / "asked"
    process = start("train", "--data-path", data_file, *WHOLE, "--run-dir", folder)
    wait_until(lambda: steps(folder), process)
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + kind, err
    assert f"--run-dir {folder} --resume" in out
    assert "Traceback" not in err
    works("train", "--run-dir", folder, "--resume")
    last = max(checksums(finished[0]))
    assert checksums(folder)[last] == checksums(finished[0])[last]


@pytest.mark.smoke
def test_a_damaged_checkpoint_is_said_and_passed_over(finished, works, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(finished[0], folder)
    newest = max(checksums(folder))
    for path in (folder / "checkpoints" / str(newest) / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            content = bytearray(path.read_bytes())
            for place in range(100, len(content), 97):
                content[place] ^= 0xFF
            path.write_bytes(content)
    out = works("train", "--run-dir", folder, "--resume")
    assert f"checkpoint of step {newest} is damaged" in out
    assert checksums(folder)[newest] == checksums(finished[0])[newest]  # trained again


def test_without_any_whole_checkpoint_it_says_so(finished, mistake, tmp_path):
    folder = tmp_path / "lost"
    shutil.copytree(finished[0], folder)
    for path in (folder / "checkpoints").glob("*/meta/metadata"):
        path.write_text("{")
    before = (folder / "results.json").read_bytes()
    assert "no checkpoint in" in mistake("train", "--run-dir", folder, "--resume")
    assert (folder / "results.json").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run(mistake, data_file, tmp_path):
    args = ["--data-path", data_file, "--model", "gru4rec", "--d-model", "8", "--hidden-size", "8"]
    args += ["--max-len", "8", "--epochs", "3", "--learning-rate", "1e30"]
    line = mistake("train", *args, "--run-dir", tmp_path / "run")
    assert "the loss of step" in line
    assert "--learning-rate" in line


@pytest.mark.parametrize(("code", "words"), [(-9, "was killed, maybe"), (1, "if __name__ ==")])
def test_why_a_worker_process_ended_is_told(code, words):
    def rows():
        yield from ()
        raise RuntimeError(f"Worker process was terminated unexpectedly with exit code {code}. See")

    with pytest.raises(UserError, match=words):
        _next_batch(rows())


@pytest.mark.slow
def test_a_killed_worker_process_is_told_in_one_line(start, data_file, tmp_path):
    folder = tmp_path / "run"
    process = start(
        "train", "--data-path", data_file, *SMALL, "--epochs", 10_000, "--data-workers", 1,
        "--run-dir", folder,
    )  # fmt: skip
    wait_until(lambda: steps(folder), process)
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = " ".join(path.read_text() for path in children).split()
    for pid in pids:
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(int(pid), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert err.startswith("error: a process of --data-workers was killed"), err
    assert err.count("\n") == 1
