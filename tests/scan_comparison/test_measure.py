import pytest

from echojax.scan_comparison.measure import measure
from echojax.scan_comparison.programs import Program, scan_program
from echojax.scan_comparison.roofline import Roofline
from echojax.scan_comparison.settings import Settings, Shape

SHAPE = Shape(2, 4, 3, 2)
ROOFLINE = Roofline(1e9, 1e9)


def measured(builders, memory=None, now=lambda text: None):
    settings = Settings((SHAPE,), ("float32",), tuple(builders), 1e-3, memory)
    rows = measure(SHAPE, "float32", settings, builders, ROOFLINE, now)
    return {(row["implementation"], row["pass"]): row for row in rows}


def fused(_, problem, which):
    return scan_program("fused", problem, which)


def changed(change):
    """Return a builder of fused programs whose results are changed."""

    def build(_, problem, which):
        program = fused(_, problem, which)
        return program._replace(start=lambda: change(program.start()))

    return build


def test_a_failure_never_stops_the_others():
    def broken(name, problem, which):
        if which == "forward+backward":
            raise NotImplementedError("no gradient\nin /a/secret/place.py here")
        return fused(name, problem, which)

    rows = measured({"broken": broken, "fused": fused})
    assert rows["broken", "forward"]["status"] == "measured"
    failed = rows["broken", "forward+backward"]
    assert failed["status"] == "failed"
    assert failed["reason"] == "NotImplementedError: no gradient in ... here"
    assert failed["median_seconds"] is None
    assert rows["fused", "forward+backward"]["status"] == "measured"


def test_wrong_results_are_seen():
    rows = measured({"fused": fused, "wrong": changed(lambda r: r | {"y": 1.5 * r["y"]})})
    assert rows["fused", "forward"]["errors"]["y"] < 1e-5
    assert rows["wrong", "forward"]["errors"]["y"] == pytest.approx(0.5, rel=1e-3)
    assert rows["wrong", "forward+backward"]["errors"]["A"] < 1e-5


def test_results_that_are_not_finite_are_a_failure():
    rows = measured({"nan": changed(lambda r: r | {"y": r["y"] * float("nan")})})
    assert rows["nan", "forward"]["reason"] == "ArithmeticError: not finite: y"


def test_what_has_no_room_is_never_run():
    def large(name, problem, which):
        return Program(
            lambda: pytest.fail("was run"), lambda _: None, 0.1, {"outputs": 2**40}, 2**40
        )

    row = measured({"large": large})["large", "forward"]
    assert row["status"] == "skipped"
    assert row["reason"].startswith("needs 1.02e+03 GiB")
    assert row["memory_bytes"] == 2**40


def test_a_failure_in_a_later_run_is_recorded():
    runs = []

    def later(name, problem, which):
        program = fused(name, problem, which)

        def start():
            runs.append(which)
            if runs.count(which) > 2:
                raise RuntimeError("lost")
            return program.start()

        return program._replace(start=start)

    rows = measured({"later": later, "fused": fused})
    assert rows["later", "forward"]["reason"] == "RuntimeError: lost"
    assert rows["later", "forward"]["floor_share"] is None
    assert rows["fused", "forward"]["repeats"] >= 3


def test_stopping_is_not_a_failure():
    def stop(text):
        if "forward" in text:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        measured({"fused": fused}, now=stop)


def test_programs_take_turns():
    order = []

    def noted(name, problem, which):
        program = fused(name, problem, which)
        return program._replace(start=lambda: (order.append((name, which)), program.start())[1])

    measured({"one": noted, "two": noted})
    assert order[4:8] == order[8:12] == order[12:16] == order[:4]
    assert len(set(order[:4])) == 4


def test_floor():
    B, L, E, N = shape = Shape(2, 3, 5, 7)
    slow_copy, slow_exp = Roofline(1.0, 1e12), Roofline(1e12, 1.0)
    assert slow_copy.floor_seconds(shape, "bfloat16", "forward") == 2 * (
        4 * B * L * E + 2 * B * L * N
    )
    assert slow_copy.floor_seconds(shape, "float32", "forward+backward") == 4 * (
        11 * B * L * E + 6 * B * L * N
    )
    assert slow_exp.floor_seconds(shape, "float32", "forward") == B * L * E * N
    assert slow_exp.floor_seconds(shape, "float32", "forward+backward") == 3 * B * L * E * N
