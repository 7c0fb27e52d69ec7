"""The comparison of scans in small: its oracle, its grid, its record and its page."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import scan_problems
import scan_programs
import scan_report
import scans
from echojax.errors import UserError
from harness import Program, Record
from scan_problems import ORDER, Shape
from scan_programs import SECOND, TOKEN, Roofline
from selective_scan import dispatch, selective_scan_gradients, selective_scan_reference

SMALL = Shape(2, 9, 3, 2)  # one for many tests: each is compiled
HERE = {"kernel": "needs a GPU", "tiled": None, "sequential": None, "reference": None}
TINY = {"seconds": 0.01, "dtypes": ("float32",), "implementations": ("sequential",)}


def measured(shape, dtype, decays, names):
    """Return the rows of a case, measured shortly."""
    case = shape._asdict() | {"dtype": dtype, "decays": decays}
    settings = scans.Settings((case,), names, 1e-3, None)
    return scans.measure(case, settings, Roofline(1e9, 1e9), Record(Path("unused"), "", {}))


def test_the_cut_of_the_whole_is_the_oracle_of_the_cut():
    """Gradients that sum over batch and channels are right too, as dy is 0 outside the cut."""
    problem = scan_problems.make_problem(Shape(9, 3, 50, 2), "float32")
    assert (len(problem.rows), len(problem.channels)) == (4, 32)
    whole = {name: np.asarray(x) for name, x in problem.arguments.items()}
    y, last = selective_scan_reference(**whole, delta_softplus=True)
    gradients = selective_scan_gradients(
        np.asarray(problem.dy), np.zeros_like(last), **whole, delta_softplus=True
    )
    expected = problem.expected()
    for name in ("y", *ORDER):
        wanted = expected.values[name]
        actual = problem.cut(name, y if name == "y" else gradients[name])
        np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-12)
        assert np.abs(wanted).max() > 0
        assert np.all(expected.sums[name] >= np.abs(wanted) * (1 - 1e-9))


@pytest.mark.parametrize("decays", scan_problems.DECAYS)
def test_every_element_and_the_second_derivatives_are_those_of_the_oracle(decays):
    """The oracle's sums and central differences against the very programs that are timed."""
    rows = measured(SMALL, "float32", decays, ("sequential",))
    forward, both, second = rows
    assert forward["element_errors"]["y"] == both["element_errors"]["y"] > 0
    assert set(both["element_errors"]) == {"y", *ORDER}
    assert max(both["element_errors"].values()) < 2e-5
    assert second["pass"] == SECOND
    assert set(second["errors"]) == set(ORDER)
    assert max(second["errors"].values()) < 1e-5


def test_terms_of_one_sign_are_summed_up_exactly():
    problem = scan_problems.make_problem(SMALL, "float32")
    one_sign = {
        name: x if name in ("delta", "delta_bias", "A") else np.abs(x) + 0.1
        for name, x in problem.arguments.items()
    }
    exact = {name: np.asarray(x).astype(np.float64) for name, x in one_sign.items()}
    values, sums, _ = scan_problems.ask_oracle(np.ones((2, 9, 3)), np.ones((2, 3, 2)), exact)
    for name in ("u", "A", "B", "C", "D", "z", "y", "last"):
        np.testing.assert_allclose(sums[name], values[name], rtol=1e-9)
    # One of its terms is negative, where a state came before.
    assert np.all(sums["delta"][:, 1:] > np.abs(values["delta"][:, 1:]))
    np.testing.assert_allclose(sums["delta"][:, 0], values["delta"][:, 0], rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inputs_are_those_of_a_layer(dtype):
    shape = Shape(2, 64, 8, 4)
    problem = scan_problems.make_problem(shape, dtype)
    for name, x in problem.arguments.items():
        assert x.dtype == ("float32" if name in ("A", "D", "delta_bias") else dtype)
    steps = jax.nn.softplus(problem.arguments["delta_bias"])
    assert 0.9e-3 < steps.min() <= steps.max() < 0.11
    everything = (*problem.arguments.values(), problem.dy)
    assert scan_problems.input_bytes(shape, dtype) == sum(x.nbytes for x in everything)
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
    token = Shape(2, 1, 5, 7)
    assert slow_exp.floor_seconds(token, "float32", TOKEN) == 2 * 5 * 7
    state_and_A = 4 * (2 * 2 * 5 * 7 + 5 * 7)
    inputs_and_y = 4 * (4 * 2 * 5 + 2 * 2 * 7)
    assert slow_copy.floor_seconds(token, "float32", TOKEN) == state_and_A + inputs_and_y
    assert slow_copy.floor_seconds(shape, "float32", SECOND) is None


def test_the_oracle_is_measured_only_where_it_is_named():
    found = scans.resolved(scans.Flags(), HERE, [], True).implementations
    assert found == ("tiled", "sequential", scan_programs.STEP)
    flags = scans.Flags(implementations=("reference", "tiled"), shape=("1, 2,3,4", "1,2,3,4"))
    settings = scans.resolved(flags, HERE, ["torch loop"], True)
    assert settings.implementations == ("tiled", "reference", "torch loop")
    cases = [(c["batch"], c["length"], c["dtype"], c["decays"]) for c in settings.cases]
    assert cases == [(1, 2, "float32", "layer"), (1, 2, "bfloat16", "layer")]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("cpu", [True, False])
def test_every_grid_sweeps_all_sizes_has_strong_decays_and_tokens(quick, cpu):
    cases = scans.resolved(scans.Flags(quick=quick), HERE, [], cpu).cases
    for axis in ("length", "batch", *(() if quick else ("channels", "states"))):
        scans_only = [case for case in cases if case["length"] > 1]
        assert len({row[axis] for row in scan_report.sweep(scans_only, axis)}) >= 2
    (strong,) = (case for case in cases if case["decays"] == "strong")
    shape = Shape(*(strong[name] for name in Shape._fields))
    assert shape.elements <= scan_problems.SECOND_ELEMENTS
    assert any(case["length"] == 1 for case in cases)
    assert {case["dtype"] for case in cases} == set(scans.DTYPES[: 1 if quick else 2])


def test_scans_beside_a_scan_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(scan_programs, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="neither is installed"):
        scans.main(scans.Flags(against="torch"))


def test_a_scan_of_ones_own_is_measured_beside_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_programs, "SECOND_ELEMENTS", 0)
    monkeypatch.setattr(scan_programs, "measure_roofline", lambda: Roofline(1e9, 1e9))
    (tmp_path / "my.py").write_text(
        "from selective_scan.xla import sequential\n"
        "def mine(inputs, *, reverse):\n"
        "    y, last = sequential(inputs, reverse=reverse)\n"
        "    return 1.5 * y, last\n"
    )
    path = tmp_path / "r.json"
    module = {"module": f"{tmp_path / 'my.py'}:mine"}
    try:
        scans.main(scans.Flags(**TINY | module, shape=("2,9,3,2",), out=path))
    finally:
        dispatch.SCANS.pop("mine", None)
    document = json.loads(path.read_text())
    assert "--module my.py:mine" in document["command"]
    error = {row["implementation"]: row["errors"]["y"] for row in document["rows"]}
    assert error["mine"] > 0.01 > error["sequential"]
    for flag, says in (
        ("none.py:scan", "no such file; name a scan as FILE.py:FUNCTION"),
        (f"{tmp_path / 'my.py'}:yours", "has no function 'yours'"),
        (f"{tmp_path / 'my.py'}:sequential", "'sequential' is this package's own"),
    ):
        with pytest.raises(UserError, match=says):
            scans.main(scans.Flags(module=flag))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Return the file of a tiny comparison beside another, of which one shape was too large."""
    path = tmp_path_factory.mktemp("scans") / "whole.json"
    shapes = ("1,4,3,2", "1,8,3,2", "2,1,3,2", "2,512,16,16")
    gpu = Path(__file__).parents[2] / "benchmarks" / "results" / "gpu-2026-11-26.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_programs, "SECOND_ELEMENTS", 24)
        patch.setattr(scan_programs, "measure_roofline", lambda: Roofline(1e9, 1e9))
        flags = scans.Flags(shape=shapes, max_memory_gib=1e-4, against="plain", **TINY)
        scans.main(replace(flags, beside=(gpu,), out=path))
    return path


def test_a_comparison_records_times_memory_and_errors(compared):
    results = json.loads(compared.read_text())
    flags = "--implementations sequential --shape 1,4,3,2 --shape 1,8,3,2"
    assert results["command"].startswith(f"python benchmarks/scans.py {flags}")
    assert "--beside gpu-2026-11-26.json" in results["command"]
    assert results["finished"]
    assert len(results["rows"]) == 3 * (3 + 2 + 2) + 1
    assert {row["implementation"] for row in results["rows"]} >= {*scan_programs.PLAIN}
    for row in results["rows"]:
        if row["length"] == 512:
            assert row["status"] == "skipped"
            assert "GiB may be used" in row["reason"]
            continue
        assert row["status"] == "measured", row
        low, high = row["quartiles_seconds"]
        assert 0 < row["min_seconds"] <= low <= row["median_seconds"] <= high
        assert row["memory_bytes"] == sum(row["memory"].values()) > 0
        assert max(row["errors"].values()) < 1e-5
        if row["pass"] != SECOND:
            share = row["floor_seconds"] / row["median_seconds"]
            assert row["floor_share"] == pytest.approx(share)
            names = {"forward": [], TOKEN: ["last"]}.get(row["pass"], ORDER)
            assert set(row["errors"]) == {"y", *names}
    page = compared.with_suffix(".md").read_text()
    assert "## B 1, L 8, E 3, N 2, float32" in page
    assert "sequential, forward: skipped: needs" in page
    for words in ("## What to use when", "## A token", "| mamba_ssm on NVIDIA H200 |"):
        assert words in page
    assert "(whole-against-size.png)" in page
    picture = compared.with_name("whole-against-size.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


NO_TIME_TAKEN = {
    **Shape(1, 2, 3, 4)._asdict(),
    **{"dtype": "float32", "implementation": "tiled", "pass": "forward"},
    **{"status": "measured", "reason": None},
}


@pytest.mark.parametrize(
    "rows", [3, [{"pass": "forward"}], [NO_TIME_TAKEN], [NO_TIME_TAKEN | {"batch": "x"}]]
)
def test_another_machines_file_that_is_no_comparison(tmp_path, rows):
    path = tmp_path / "other.json"
    document = {"command": "", "date": "", "machine": {}, "settings": {}, "finished": True}
    path.write_text(json.dumps(document | {"rows": rows}))
    with pytest.raises(UserError, match=r"other\.json cannot be used: .*--beside"):
        scans.main(scans.Flags(beside=(path,)))


@pytest.mark.parametrize(
    ("spans", "advice", "set_off"),
    [
        ({"a": (1, 2), "b": (3, 4)}, "a (next: 2.33 times)", 1),
        ({"a": (1, 3), "b": (2, 4)}, "a or b", 0),  # within noise
        ({"a": (1, 2)}, "a", 0),  # by itself
        ({"a": None, "b": (3, 4), "c": (1, 2)}, "c (next: 2.33 times)", 1),
    ],
)
def test_what_is_within_noise_is_not_set_off(spans, advice, set_off):
    shown = ("ns_per_element", "floor_share", "memory_bytes", "compile_seconds", "errors")
    rows = [
        {
            **Shape(1, 2, 3, 4)._asdict(),
            **dict.fromkeys(shown),
            "dtype": "float32",
            "pass": "forward",
            "implementation": name,
            "reason": None,
            "median_seconds": span and sum(span) / 2,
            "quartiles_seconds": span,
            "status": "measured" if span else "failed",
        }
        for name, span in spans.items()
    ]
    ((_, forward, *_),) = scan_report.advice(rows).rows
    assert forward == advice
    (table,) = scan_report.tables(rows)
    assert table.markdown().count("**") == 2 * set_off
    if "next" in advice:  # the other one is recommended if the fastest has wrong results
        for row in rows:
            if row["implementation"] == advice[0]:
                row["errors"] = {"y": 1.1}
        found = scan_report.advice(rows)
        assert [found.rows[0][1], found.notes[1]] == [
            "b",
            f"Left out, as the results are wrong: {advice[0]}.",
        ]


def test_a_case_that_time_cut_short_is_measured_whole_the_next_time(monkeypatch):
    """Else the programs that were ready would pass for the whole case."""
    left = iter([True, False])
    monkeypatch.setattr(Record, "out_of_time", property(lambda _: not next(left, False)))
    program = Program(lambda: pytest.fail("was timed"))
    monkeypatch.setattr(scans, "_prepare", lambda *_: program)
    rows = measured(SMALL, "float32", "layer", ("no kernel",))
    assert [row["reason"] for row in rows] == ["no time left"] * 2


def test_a_scan_that_fails_or_is_wrong_stops_no_other(monkeypatch):
    problem = scan_problems.make_problem(SMALL, "float32")
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
    rows = measured(SMALL, "float32", "layer", names)
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
