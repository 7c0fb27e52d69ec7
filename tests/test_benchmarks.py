"""The benchmarks in small: what they record, how they continue, and what their numbers are."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import cold_items
import gpu_acceptance
import harness
import pages
import peers
import prequential
import scaling
import scan_programs
import scans
import serving
import step
import training
import trials
import tune_scans
import tune_tiles
from echojax.command_line import parse
from echojax.data import Dataset, leave_one_out
from echojax.errors import UserError
from echojax.evaluation.baselines import rank_by
from echojax.files import read_record
from echojax.suites.results import Ranks
from harness import Program, Record, Skipped
from scan_programs import Roofline, Shape
from selective_scan import dispatch, selective_scan_gradients, selective_scan_reference, tiled
from selective_scan.gpu.plans import PLANS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CASES = [{"n": n} for n in range(3)]
HERE = {"kernel": "needs a GPU", "tiled": None, "sequential": None, "reference": None}
TINY = {"seconds": 0.01, "dtypes": ("float32",), "implementations": ("tiled", "sequential")}


@pytest.fixture(autouse=True)
def unchanged_settings():
    """Undo what commands set for their process."""
    cached, handler = jax.config.jax_enable_compilation_cache, signal.getsignal(signal.SIGINT)
    yield
    jax.config.update("jax_enable_compilation_cache", cached)
    assert signal.getsignal(signal.SIGINT) is handler


def script(name, *args):
    """Run a benchmark as a user does: (exit code, output, errors)."""
    command = [sys.executable, ROOT / "benchmarks" / name, *map(str, args)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


# The record.


def fill(path, settings=(), stop=None, **options):
    with Record(path, "python it.py", {"seconds": 1, **dict(settings)}, **options) as record:
        for case in record.missing(CASES):
            with record.row(case) as row:
                if stop == case["n"]:
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(5)
                row["value"] = time.perf_counter()
    return record.document


def test_a_stopped_measurement_keeps_its_rows_and_continues(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "new" / "r.json"
    with pytest.raises(SystemExit) as stopped:
        fill(path, stop=2)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert f"with --out {path} continues" in caplog.text
    before = json.loads(path.read_text())
    assert not before["finished"]
    assert [row["n"] for row in before["rows"]] == [0, 1]
    document = fill(path)
    assert document.finished
    assert document.rows[:2] == before["rows"]
    assert "2 of 3 cases are in" in caplog.text
    assert "[3/3] n 2" in caplog.text
    assert "results: " in caplog.text
    assert str(tmp_path) not in path.read_text()


def test_after_its_time_nothing_begins_and_the_next_command_continues(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "r.json"
    assert not fill(path, time_limit=-1.0).finished
    assert "no time left; the same command" in caplog.text
    with Record(path, "", {"seconds": 1}) as record, record.row({"n": 0}):
        raise Skipped(harness.NO_TIME)
    assert len(fill(path).rows) == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        ('{"rows": []}', "missing required field `command`"),
        ({"settings": {"seconds": 7}}, "was measured with seconds 7, not 1; name another file"),
        ({"machine": {"cores": 99}}, "was measured with cores 99"),
    ],
)
def test_a_file_of_something_else_is_refused(content, says, tmp_path):
    path = tmp_path / "r.json"
    if isinstance(content, dict):
        fill(path)
        document = json.loads(path.read_text())
        ((part, change),) = content.items()
        content = json.dumps(document | {part: document[part] | change})
    path.write_text(content)
    with pytest.raises(UserError, match=says):
        fill(path)
    assert path.read_text() == content


def test_a_failure_is_a_row_with_its_reason(tmp_path):
    failures = (
        RuntimeError("no such kernel\n in /home/me/secret/place.py"),
        Skipped("needs 100 GiB"),
        RuntimeError("RESOURCE_EXHAUSTED: no room"),
    )
    with Record(tmp_path / "r.json", "", {}) as record:
        for case, failure in zip(record.missing(CASES), failures, strict=True):
            with record.row(case):
                raise failure
    assert [(row["status"], row["reason"]) for row in record.document.rows] == [
        ("failed", "RuntimeError: no such kernel in ..."),
        ("skipped", "needs 100 GiB"),
        ("skipped", "RuntimeError: RESOURCE_EXHAUSTED: no room"),
    ]


def test_what_needs_too_much_memory_is_skipped():
    harness.check_memory(2**20, None)
    with pytest.raises(Skipped, match=r"needs 1 GiB, 0\.5 GiB may be used"):
        harness.check_memory(2**30, 0.5)
    with pytest.raises(Skipped, match="GiB may be used"):
        harness.check_memory(2**60, None)


# Time.


def test_programs_take_turns_and_one_that_fails_stops_no_other():
    order = []

    def fails():
        order.append("b")
        if order.count("b") > 2:
            raise RuntimeError("lost")

    def noted(name):
        return Program(lambda: order.append(name), wait=lambda _: None)

    one, lost, other = harness.time_in_turns(
        [noted("a"), Program(fails, wait=lambda _: None), noted("c")], 0.0, least=4
    )
    assert order == list("abcabcabcac")
    assert len(one.single) == len(other.single) == one.row()["repeats"] == 4
    assert lost.row()["reason"] == "RuntimeError: lost"
    assert one.row()["min_seconds"] <= one.row()["median_seconds"]


def test_an_accelerator_is_timed_in_a_queue_that_is_awaited_once(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    starts, waits = [], []
    fast = Program(lambda: starts.append(1), wait=waits.append)
    slow = Program(lambda: time.sleep(0.02), wait=lambda _: None)
    quick, slow_one = harness.time_in_turns([fast, slow], 0.0, least=2)
    assert len(waits) == 4
    assert len(starts) == 2 * (1 + 50)
    assert slow_one.queued == slow_one.single  # what is slow is not run twice as often
    row = quick.row()
    assert row["queued_quartiles_seconds"][0] <= row["queued_seconds"]


# Scans.


def test_the_cut_of_the_whole_is_the_oracle_of_the_cut():
    """Gradients that sum over batch and channels are right too, as dy is 0 outside the cut."""
    problem = scan_programs.make_problem(Shape(9, 3, 50, 2), "float32")
    assert (len(problem.rows), len(problem.channels)) == (4, 32)
    whole = {name: np.asarray(x) for name, x in problem.arguments.items()}
    y, last = selective_scan_reference(**whole, delta_softplus=True)
    gradients = selective_scan_gradients(
        np.asarray(problem.dy), np.zeros_like(last), **whole, delta_softplus=True
    )
    for name, wanted in problem.expected().items():
        actual = problem.cut(name, y if name == "y" else gradients[name])
        np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-12)
        assert np.abs(wanted).max() > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inputs_are_those_of_a_layer(dtype):
    shape = Shape(2, 64, 8, 4)
    problem = scan_programs.make_problem(shape, dtype)
    for name, x in problem.arguments.items():
        assert x.dtype == ("float32" if name in ("A", "D", "delta_bias") else dtype)
    steps = jax.nn.softplus(problem.arguments["delta_bias"])
    assert 0.9e-3 < steps.min() <= steps.max() < 0.11
    everything = (*problem.arguments.values(), problem.dy)
    assert scan_programs.input_bytes(shape, dtype) == sum(x.nbytes for x in everything)
    for cut, size in ((problem.rows, 2), (problem.channels, 8)):
        assert (cut[0], cut[-1]) == (0, size - 1)


def test_the_floor_counts_bytes_and_exponentials():
    B, L, E, N = shape = Shape(2, 3, 5, 7)
    slow_copy, slow_exp = Roofline(1.0, 1e12), Roofline(1e12, 1.0)
    forward, both = scan_programs.PASSES
    bytes_forward = 2 * (4 * B * L * E + 2 * B * L * N)
    assert slow_copy.floor_seconds(shape, "bfloat16", forward) == bytes_forward
    bytes_both = 4 * (11 * B * L * E + 6 * B * L * N)
    assert slow_copy.floor_seconds(shape, "float32", both) == bytes_both
    assert slow_exp.floor_seconds(shape, "float32", forward) == B * L * E * N
    assert slow_exp.floor_seconds(shape, "float32", both) == 3 * B * L * E * N


def test_the_oracle_is_measured_only_where_it_is_named():
    assert scans.resolved(scans.Flags(), HERE, [], True).implementations == ("tiled", "sequential")
    flags = scans.Flags(implementations=("reference", "tiled"), shape=("1, 2,3,4", "1,2,3,4"))
    settings = scans.resolved(flags, HERE, ["torch loop"], True)
    assert settings.implementations == ("tiled", "reference", "torch loop")
    assert settings.shapes == (Shape(1, 2, 3, 4),)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("cpu", [True, False])
def test_every_grid_sweeps_length_and_batch(quick, cpu):
    shapes = scans.resolved(scans.Flags(quick=quick), HERE, [], cpu).shapes
    for axis in ("length", "batch"):
        swept = scans.sweep([shape._asdict() for shape in shapes], axis)
        assert len({row[axis] for row in swept}) >= 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--shape", "1,2,3"], "--shape '1,2,3' is not B,L,E,N"),
        (["--shape", "1,2,3,0"], "--shape '1,2,3,0' is not B,L,E,N"),
        (["--implementations", "tilled"], "did you mean 'tiled'"),
        (["--implementations", "kernel"], "kernel cannot run here: needs a GPU"),
        (["--dtypes", "float16"], "--dtypes"),
        (["--seconds", "0"], "--seconds must be a number above 0, not 0"),
        (["--max-memory-gib", "nan"], "--max-memory-gib must be a number above 0"),
    ],
)
def test_scans_refuse_values_of_no_use(flags, says):
    with pytest.raises(UserError, match=says):
        scans.resolved(parse(scans.Flags, args=flags), HERE, [], True)


def test_scans_beside_a_scan_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(scan_programs, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="neither is installed"):
        scans.compare(scans.Flags(against="torch"))


def test_a_scan_of_ones_own_is_measured_beside_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "_NEEDS", dict(dispatch._NEEDS))
    monkeypatch.setattr(scan_programs, "measure_roofline", lambda: Roofline(1e9, 1e9))
    (tmp_path / "my.py").write_text(
        "from selective_scan.xla import sequential\n"
        "def mine(inputs, *, reverse):\n"
        "    y, last = sequential(inputs, reverse=reverse)\n"
        "    return 1.5 * y, last\n"
    )
    path = tmp_path / "r.json"
    module = {"module": f"{tmp_path / 'my.py'}:mine", "implementations": ("mine",)}
    try:
        scans.compare(scans.Flags(**TINY | module, shape=("1,2,3,2",), out=path))
    finally:
        dispatch.SCANS.pop("mine", None)
    document = json.loads(path.read_text())
    assert "--module my.py:mine" in document["command"]
    forward, _ = document["rows"]
    assert forward["implementation"] == "mine"
    assert forward["errors"]["y"] > 0.01
    for flag, says in (
        ("none.py:scan", "no such file; name a scan as FILE.py:FUNCTION"),
        (f"{tmp_path / 'my.py'}:yours", "has no function 'yours'"),
        (f"{tmp_path / 'my.py'}:sequential", "'sequential' is this package's own"),
    ):
        with pytest.raises(UserError, match=says):
            scans.compare(scans.Flags(module=flag))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Return the file of a tiny comparison, of which one shape was too large."""
    path = tmp_path_factory.mktemp("scans") / "whole.json"
    shapes = ("2,4,3,2", "1,8,3,2", "2,8,3,2", "2,512,16,16")
    flags = scans.Flags(shape=shapes, max_memory_gib=1e-4, against="plain", out=path, **TINY)
    scans.compare(flags)
    return path


def test_a_comparison_records_times_memory_and_errors(compared):
    results = json.loads(compared.read_text())
    flags = "--implementations tiled sequential --shape 2,4,3,2 --shape 1,8,3,2"
    assert results["command"].startswith(f"python benchmarks/scans.py {flags}")
    assert results["finished"]
    assert len(results["rows"]) == 4 * 4 * 2
    assert {row["implementation"] for row in results["rows"]} >= {*scan_programs.PLAIN}
    for row in results["rows"]:
        if row["length"] == 512:
            assert row["status"] == "skipped"
            assert "GiB may be used" in row["reason"]
            continue
        assert row["status"] == "measured", row
        low, high = row["quartiles_seconds"]
        assert 0 < row["min_seconds"] <= low <= row["median_seconds"] <= high
        assert row["floor_share"] == pytest.approx(row["floor_seconds"] / row["median_seconds"])
        assert row["memory_bytes"] == sum(row["memory"].values()) > 0
        gradients = set(scan_programs.ORDER) if row["pass"] != "forward" else set()
        assert set(row["errors"]) == {"y", *gradients}
        assert max(row["errors"].values()) < 1e-5
    page = compared.with_suffix(".md").read_text()
    assert "## B 1, L 8, E 3, N 2, float32" in page
    assert "sequential, forward: skipped: needs" in page
    for axis in ("length", "batch"):
        assert f"(whole-against-{axis}.png)" in page
        picture = compared.with_name(f"whole-against-{axis}.png")
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("spans", "fastest"),
    [
        ({"a": (1, 2), "b": (3, 4)}, "a"),
        ({"a": (1, 3), "b": (2, 4)}, None),  # within noise
        ({"a": (1, 2)}, None),  # alone
        ({"a": None, "b": (3, 4), "c": (1, 2)}, "c"),
    ],
)
def test_what_is_within_noise_is_not_set_off(spans, fastest):
    rows = [
        {
            "implementation": name,
            "quartiles_seconds": span,
            "status": "measured" if span else "failed",
        }
        for name, span in spans.items()
    ]
    assert scans._fastest(rows) == fastest


def test_a_scan_that_fails_or_is_wrong_stops_no_other(monkeypatch, tmp_path):
    shape = Shape(2, 4, 3, 2)
    problem = scan_programs.make_problem(shape, "float32")
    right = {w: scan_programs.make_program("tiled", problem, w) for w in scan_programs.PASSES}

    def scaled(factor, program):
        def start(*arguments):
            results = program.start(*arguments)
            return results | {"y": results["y"] * factor}

        return program._replace(start=start), 0

    def make(name, problem, which, option):
        program, needed = right[which]
        if name == "no gradient" and which != "forward":
            raise NotImplementedError("no gradient\nin /a/secret/place.py here")
        if name == "large":
            return program._replace(start=lambda *_: pytest.fail("was run")), 2**60
        factors = {"wrong": 1.5, "mamba_ssm": 1.5, "nan": math.nan}
        return scaled(factors[name], program) if name in factors else (program, needed)

    monkeypatch.setattr(scan_programs, "make_program", make)
    names = ("no gradient", "large", "wrong", "mamba_ssm", "nan", "right")
    settings = scans.Settings((), (), names, 1e-3, None)
    case = shape._asdict() | {"dtype": "float32"}
    rows = scans.measure(case, settings, Roofline(1e9, 1e9), Record(tmp_path / "r", "", {}))
    found = {(row["implementation"], row["pass"]): scans.held_to_tolerance(row) for row in rows}
    forward, both = scan_programs.PASSES
    assert found["no gradient", forward]["status"] == "measured"
    failed = found["no gradient", both]
    assert failed["reason"] == "NotImplementedError: no gradient in ... here"
    assert (failed["status"], failed["median_seconds"]) == ("failed", None)
    assert found["large", forward]["status"] == "skipped"
    assert found["large", forward]["reason"].startswith("needs 1.07e+09 GiB")
    wrong = found["wrong", both]
    assert wrong["errors"]["y"] == pytest.approx(0.5, rel=1e-3)
    assert wrong["errors"]["A"] < 1e-5
    assert (wrong["status"], wrong["reason"]) == ("failed", "y is off by 5.0e-01")
    assert found["mamba_ssm", both]["status"] == "measured"  # by others: only told
    assert found["nan", forward]["reason"] == "ArithmeticError: not finite: y"
    assert {found["right", which]["status"] for which in (forward, both)} == {"measured"}
    assert scans.held_to_tolerance(wrong | {"errors": {"y": math.nan}})["status"] == "failed"


# Serving.


def test_serving(tmp_path, caplog):
    path = tmp_path / "s.json"
    flags = serving.Flags(quick=True, models=("sasrec",), max_memory_gib=0.5, out=path)
    serving.bench(flags)
    results = json.loads(path.read_text())
    assert results["command"] == (
        "python benchmarks/serving.py --models sasrec --max-memory-gib 0.5 --quick"
    )
    assert [(row["kind"], row["model"], row["catalogue"]) for row in results["rows"]] == [
        ("encode", "sasrec", None),
        ("encode", "sasrec", None),
        ("event", "mamba4rec", None),
        ("event", "mamba4rec", None),
        ("top-k", None, 1000),
        ("top-k", None, 2000),
    ]
    for row in results["rows"]:
        assert row["status"] == "measured", row
        assert 0 < row["min_seconds"] <= row["p50_seconds"] <= row["p99_seconds"]
        assert row["repeats"] >= 3
        assert row["memory_bytes"] > 0
    assert "## One more event taken in, batch 2" in path.with_suffix(".md").read_text()
    assert path.with_name("s-against-length.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"models": ("sasrek",)}, "unknown model in --models 'sasrek'; did you mean 'sasrec'"),
        ({"streams": ("bert4rec",)}, "unknown model in --streams 'bert4rec'"),
        ({"lengths": (5, 0)}, "--lengths must be 1 or more, not 0"),
        ({"catalogues": (1,)}, "--catalogues must be 2 or more, not 1"),
        ({"seconds": math.nan}, "--seconds must be a number above 0, not nan"),
        ({"cores": 0}, "--cores must be from 1 to"),
    ],
)
def test_serving_refuses_values_of_no_use(flags, says):
    with pytest.raises(UserError, match=says):
        serving.bench(serving.Flags(**flags))


def test_growth_is_the_power_between_the_two_longest():
    rows = [{"length": n, "p50_seconds": s} for n, s in ((10, 9.0), (4, 7.0), (20, 36.0))]
    assert serving.growth(rows) == "length^2"
    assert serving.growth([*rows[:1], {"length": 40, "p50_seconds": None}]) == "–"


# Training steps.


@pytest.mark.slow
def test_a_sharded_step_has_the_losses_of_one_device(tmp_path):
    size = ["--items", 64, "--events", 16, "--batch-size", 4, "--d-model", 8, "--steps", 1]
    shards = ["--devices", 4, "--item-shards", 2, "--sequence-shards", 2]
    found = []
    for name, flags in {"one": [], "shards": shards}.items():
        path = tmp_path / f"{name}.json"
        code, _, err = script("step.py", *size, *flags, "--out", path)
        assert code == 0, err
        assert str(tmp_path) not in path.read_text()
        found += json.loads(path.read_text())["rows"]
    one, parts = found
    assert parts["first_losses"] == pytest.approx(one["first_losses"], rel=1e-5)
    assert parts["devices"].startswith("4 x")
    assert one["parameters"] == parts["parameters"] > 64 * 8
    assert one["peak_resident_gib"] > one["step_memory_gib"] > 0


@pytest.mark.slow
def test_scaling_exchanges_the_bytes_of_arithmetic(tmp_path):
    small = [
        "--model",
        "gru4rec",
        "--items",
        31,
        "--large-items",
        16,
        "--events",
        6,
        "--d-model",
        8,
        "--devices",
        2,
        "--rows",
        16,
        "--steps",
        2,
    ]
    code, _, err = script("scaling.py", *small, "--out", tmp_path / "s.json")
    assert code == 0, err
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert [(row["items"], row["devices"], row["rows"], row["item_shards"]) for row in rows] == [
        (31, 1, 16, 1),
        (31, 1, 8, 1),
        (31, 2, 16, 1),
        (16, 2, 16, 1),
        (16, 2, 16, 2),
    ]
    assert all(row["median_seconds"] > 0 for row in rows)
    _, _, whole, large, parts = rows
    # GRU4Rec of width 8: a table of 8 numbers an item, and the same rest for both item sets.
    rest = whole["parameters"] - 8 * 31
    assert large["parameters"] == rest + 8 * 16
    for row, shared in ((whole, rest + 8 * 31), (large, rest + 8 * 16), (parts, rest)):
        # float32 gradients of what both devices have; loss, weight; their hosts' signals.
        expected = 4 * shared + 4 + 4 + 4
        assert row["kinds"]["all-reduce"] == {"bytes": expected, "wire_bytes": expected}
        assert row["arithmetic_bytes"] == expected
    assert set(whole["kinds"]) == set(large["kinds"]) == {"all-reduce"}
    # Of 16 rows of 6 events: both devices need the rows of the items that the other asks for.
    asked = 4 * 16 * 6 * 8
    assert asked <= parts["kinds"]["reduce-scatter"]["bytes"] <= 1.4 * asked
    page = (tmp_path / "s.md").read_text()
    assert f"{whole['arithmetic_bytes']:,}" in page
    assert (tmp_path / "s-steps.png").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"devices": 3}, "--devices must be a power of two, not 3"),
        ({"large_items": 100}, "--large-items 100 is not a multiple of --devices 8"),
        ({"rows": 12}, "--rows 12 is not a multiple of --devices 8"),
        ({"steps": 0}, "--steps must be at least 1, not 0"),
    ],
)
def test_scaling_refuses_values_of_no_use(flags, says):
    with pytest.raises(UserError, match=says):
        scaling.scale(scaling.Flags(**flags))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"item_shards": 3}, "--items 100000 is not a multiple of --item-shards 3"),
        ({"events": 16, "sequence_shards": 8}, "--sequence-shards 8 leaves too little"),
    ],
)
def test_impossible_shards_are_refused_in_one_line(flags, says, tmp_path):
    with pytest.raises(UserError, match=says):
        step.measure(step.Flags(out=tmp_path / "step.json", **flags))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_times_an_epoch_and_whole_commands(tmp_path):
    path, affinity = tmp_path / "t.json", os.sched_getaffinity(0)
    flags = training.Flags(
        out=path, dataset="synthetic", steps=2, models=("gru4rec",), seeds=2, epochs=1, start=True
    )
    try:
        training.bench(flags)
    finally:
        os.sched_setaffinity(0, affinity)
    epoch, start, seeds = json.loads(path.read_text())["rows"]
    assert epoch["seconds_per_epoch"] >= epoch["seconds_per_epoch_fastest_step"] > 0
    assert epoch["evaluation_seconds"] > 0
    assert start["first_seconds"] > 0
    assert start["second_seconds"] > 0
    assert seeds["speed_up"] == seeds["one_by_one_seconds"] / seeds["at_once_seconds"]


@pytest.mark.slow
def test_the_winner_of_trials_is_the_same_however_they_are_trained(tmp_path):
    path, affinity = tmp_path / "t.json", os.sched_getaffinity(0)
    flags = trials.Flags(out=path, dataset="synthetic", model="gru4rec", trials=2, epochs=1)
    try:
        trials.bench(flags)
    finally:
        os.sched_setaffinity(0, affinity)
    rows = json.loads(path.read_text())["rows"]
    assert [row["way"] for row in rows] == list(trials.WAYS)
    for row in rows:
        np.testing.assert_allclose(row["valid_ndcg@10"], rows[0]["valid_ndcg@10"], rtol=1e-3)
        assert row["winner"] == rows[0]["winner"]
        if row["way"] != "together":
            assert row["speed_up_of_together"] == row["seconds"] / rows[-1]["seconds"]


# The GPU's benchmarks, without one.


def plan_row(plan, batch, milliseconds):
    """Return a row of the tuning; ``None`` stands for a plan that does not compile."""
    row = Shape(batch, 50, 128, 16)._asdict() | {"dtype": "float32", "what": "plan"}
    row |= {"implementation": plan, "pass": "forward+backward", "reason": None}
    if milliseconds is None:
        return row | {"status": "failed", "reason": "too much shared memory"}
    return row | {"status": "measured", "median_seconds": milliseconds / 1e3}


def test_the_best_plan_is_fast_at_every_size():
    a, b, c = (
        "block 32, chunk 16, ahead 1",
        "block 64, chunk 8, ahead 1",
        "block 64, chunk 8, ahead 2",
    )
    times = {a: (1, 4), b: (2, 2), c: (1.1, 2.2)}
    rows = [plan_row(plan, n, own[n]) for plan, own in times.items() for n in (0, 1)]
    assert tune_scans.slowness(rows) == {
        a: pytest.approx(2**0.5),
        b: pytest.approx(2**0.5),
        c: pytest.approx(1.1),
    }
    (line,) = tune_scans.plan_lines(rows)
    assert line.startswith("    16: Plan(block=64, chunk=8, ahead=2),  # 1.100 of the best")
    assert line.endswith("the present line: 1.414")
    rows[0] = plan_row(a, 0, None)  # must run at all sizes
    assert set(tune_scans.slowness(rows)) == {b, c}
    assert "too much shared memory" in tune_scans.failures(rows)[0]
    every = tune_scans.plans()
    assert len(set(every)) == len(every) == 18
    assert set(PLANS.values()) <= set(every)


@pytest.mark.slow
def test_the_tuning_dry_run(tmp_path, caplog):
    caplog.set_level("INFO")
    tune_scans.tune(tune_scans.Flags(out=tmp_path / "t.json", dry_run=True))
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert {row["status"] for row in rows} == {"measured"}
    assert {row["what"] for row in rows} == {"plan", "segments"}
    assert "  # 1.000 of the best" in caplog.text
    assert "the rule's 1: " in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="tiles are of CPUs")
def test_tiles_of_other_sizes_give_the_same(tmp_path):
    before = tiled.tile_rows
    tune_tiles.compare(tune_tiles.Flags(out=tmp_path / "t.json", dry_run=True))
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert {row["what"] for row in rows} == {"read-out", "scan"}
    assert all(row["median_seconds"] > 0 and row["difference"] < 1e-5 for row in rows)
    assert tiled.tile_rows is before


@pytest.mark.parametrize(
    "measure",
    [
        lambda: tune_scans.tune(tune_scans.Flags()),
        lambda: gpu_acceptance.accept(gpu_acceptance.Flags()),
    ],
)
def test_without_a_gpu_one_line_says_so(measure):
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match=r"needs an NVIDIA GPU; this is .*--dry-run"):
        measure()


def test_acceptance_without_the_data_that_was_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no ml-1m; put ml-1m.* there"):
        gpu_acceptance.accept(gpu_acceptance.Flags(dry_run=True, data_dir=tmp_path))


@pytest.mark.slow
def test_the_acceptance_dry_run(tmp_path):
    path = tmp_path / "gpu.json"
    code, out, err = script("gpu_acceptance.py", "--dry-run", "--out", path)
    assert code == 0, out + err
    document = json.loads(path.read_text())
    assert document["finished"]
    assert document["command"] == "python benchmarks/gpu_acceptance.py --dry-run"
    sections = {row["section"] for row in document["rows"]}
    assert sections == {"tests", "scans", "directions", "training"}
    assert {row["status"] for row in document["rows"]} <= {"passed", "measured", "skipped"}
    (run,) = (row for row in document["rows"] if row["section"] == "training")
    assert run["runs"]["auto"]["steps"] == run["runs"]["tiled"]["steps"] == 3


def test_a_failed_check_fails_the_acceptance(caplog):
    caplog.set_level("INFO")
    rows = [{"section": "tests", "name": "odd", "status": "failed", "reason": "y 1e-3"}]
    assert gpu_acceptance.summary(rows)
    assert '"reason": "y 1e-3"' in caplog.text
    assert not gpu_acceptance.summary([rows[0] | {"status": "skipped"}])


# What was measured before can still be read.


@pytest.mark.parametrize("name", ["scans-cpu", "scans-cpu-million", "scans-cpu-one-core"])
def test_committed_scans_are_shown(name):
    document = read_record(RESULTS / f"{name}.json", harness.Document)
    text = pages.page(document, f"{name}.json", "Scans", *scans.tables(document.rows))
    assert "| fused |" in text
    assert (scans.pictures(document.rows)["against-length"] is None) == (name != "scans-cpu")


def test_committed_serving_is_shown():
    document = read_record(RESULTS / "serving-cpu.json", harness.Document)
    assert len(serving.tables(document.rows)) == 6
    assert serving.picture(document.rows)


# Prequential evaluation beside leave-one-out.


def test_two_models_are_compared_user_by_user_on_the_same_events():
    user_M, rng = np.repeat(np.arange(40), 5), np.random.default_rng(0)
    ours, theirs = (Ranks(rng.integers(1, most, 200), user_M, user_M) for most in (12, 60))
    for row in prequential.compared(ours, theirs):
        assert (row["events"], row["users"]) == (200, 40)
        assert row["difference"] == pytest.approx(row["ours"] - row["theirs"])
        assert 0 < row["low"] < row["difference"] < row["high"]
        assert row["width"] == row["high"] - row["low"]
    with pytest.raises(UserError, match="on other users"):
        prequential.compared(ours, Ranks(theirs.rank_M, user_M[::-1], user_M))


# Peers on the very same split.


def test_a_peer_gets_the_training_events_and_is_ranked_by_our_rule():
    histories = [[1, 2, 3, 4, 5], [2, 1], [3, 5, 2, 1]]
    frame = {
        "user": np.repeat(np.arange(3), [5, 2, 4]),
        "item": np.concatenate(histories),
        "time": np.arange(11),
    }
    dataset = Dataset.from_frame(frame, user="user", item="item", time="time", k_core=0)
    split, number = leave_one_out(dataset, 3), dataset.items_T
    found = peers.exported(dataset, split)
    # Of the two items of the second user both are training; of the others all but the last two.
    places = [0, 1, 2, 5, 6, 7, 8]
    np.testing.assert_array_equal(found["user_T"], [0, 0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found["item_T"], number[places])
    np.testing.assert_array_equal(found["test_ids_BxL"], [number[1:4], number[7:10]])
    np.testing.assert_array_equal(found["valid_targets_B"], number[[3, 9]])
    # Theirs numbers the items otherwise, and lacks one: the target of the first test user.
    number_of_V = np.array([0, 3, 1, 4, 2, 5])
    number_of_V[number[4]] = 0
    item_VxD = np.random.default_rng(0).normal(size=(6, 2))
    arrays = {"number_of_V": number_of_V, "user_BxD": np.eye(2), "item_VxD": item_VxD}
    scores = peers.scorer_of(arrays)(split.test, np.arange(2))
    known = np.flatnonzero(number_of_V)
    np.testing.assert_array_equal(scores[:, known], item_VxD[number_of_V[known]].T)
    ranked = rank_by(peers.scorer_of(arrays), split.test, 6, exclude_seen=False)
    assert ranked.rank_M[0] == 5


def test_hashed_titles_and_their_table():
    one, same_kind, other = map(
        cold_items.hashed, ("Alien · 1979 · Horror", "Jaws · 1975 · Horror", "Alien")
    )
    np.testing.assert_allclose(np.linalg.norm(one.reshape(2, -1), axis=1), 1)
    np.testing.assert_array_equal(one[64:], same_kind[64:])
    np.testing.assert_array_equal(one[:64], other[:64])
    record = read_record(RESULTS / "cold-items-ml-100k.json", harness.Document)
    page = (RESULTS / "cold-items-ml-100k.md").read_text(encoding="utf-8")
    assert cold_items.table(record.rows).markdown() in page
