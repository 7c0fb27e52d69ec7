"""The benchmark of serving from the command line: what it leaves, how it goes on."""

import csv
import json

from tests.commands.test_bad_input import only_line

QUICK = ["--quick", "--models", "sasrec", "--cores", "1"]


def test_quick(command, tmp_path):
    folder = tmp_path / "new" / "figures"
    code, out, err = command("bench_serving.py", *QUICK, "--out", folder)
    assert code == 0, err
    assert {path.name for path in folder.iterdir()} == {
        "results.json", "results.csv", "cost-against-length.png",
    }  # fmt: skip
    text = (folder / "results.json").read_text()
    results = json.loads(text)
    assert results["finished"]
    assert results["command"] == f"python experiments/bench_serving.py {' '.join(QUICK)}"
    assert results["machine"]["cores"] == 1
    assert str(tmp_path) not in text
    cases = results["cases"]
    assert [(case["kind"], case["model"], case["catalogue"]) for case in cases] == [
        ("encode", "sasrec", None), ("encode", "sasrec", None),
        ("event", "mamba4rec", None), ("event", "mamba4rec", None),
        ("top-k", None, 1000), ("top-k", None, 2000),
    ]  # fmt: skip
    for case in cases:
        assert case["status"] == "measured", case
        assert 0 < case["min_seconds"] <= case["p50_seconds"] <= case["p99_seconds"]
        assert case["repeats"] >= 3
        assert case["memory_bytes"] > 0
    with (folder / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["p99_seconds"]) for line in lines] == [c["p99_seconds"] for c in cases]
    assert "One more event taken in, batch 2" in out
    assert (folder / "cost-against-length.png").read_bytes().startswith(b"\x89PNG")

    # What is there is not measured again, other settings are refused, and so is another folder.
    results["cases"], results["finished"] = cases[:-1], False
    (folder / "results.json").write_text(json.dumps(results))
    code, out, err = command("bench_serving.py", *QUICK, "--out", folder)
    assert code == 0, err
    assert "5 of 6 cases are in" in out
    again = json.loads((folder / "results.json").read_text())
    assert again["cases"][:5] == cases[:5]
    assert again["cases"][5]["p50_seconds"] != cases[5]["p50_seconds"]


def test_bad_input(command, tmp_path):
    code, _, err = command("bench_serving.py", "--models", "sasrek", cwd=tmp_path)
    assert code == 2, err
    assert "unknown model in --models 'sasrek'; did you mean 'sasrec'?" in only_line(err)
    assert not (tmp_path / "runs").exists()
