"""The check of a scan sees what is wrong with it."""

import jax
import jax.numpy as jnp
import pytest

from echojax.gpu.against_oracle import check, judged
from echojax.gpu.scan_cases import EVERYTHING, MAMBA, Case, kernel_cases, other_cases
from echojax.gpu.scan_checks import run
from echojax.scan_comparison.settings import Shape

SMALL = Case(Shape(2, 6, 3, 2), EVERYTHING)


def scan_off_by(y_factor=1.0, last_factor=1.0, gradient_factor=1.0):
    @jax.custom_vjp
    def scaled(y):
        return y * y_factor

    scaled.defvjp(lambda y: (scaled(y), None), lambda _, dy: (dy * gradient_factor,))

    def scan(arrays):
        y, last = run(arrays, SMALL, "sequential")
        return scaled(y)[None], last[None] * last_factor

    return scan


def test_a_right_scan_passes():
    row = check(scan_off_by(), SMALL, own=(), reverses=(False,))
    assert row["status"] == "passed", row
    assert len(row["errors"]) == 4 + 9  # y and last state, both twice; every argument


@pytest.mark.parametrize("wrong", ["y_factor", "last_factor", "gradient_factor"])
def test_a_scan_that_is_off_fails(wrong):
    row = check(scan_off_by(**{wrong: 1.001}), SMALL, own=(), reverses=(False,))
    assert row["status"] == "failed"
    about = {"y_factor": "y", "last_factor": "last state", "gradient_factor": "gradient of u"}
    assert about[wrong] in row["reason"]


def test_the_wrong_direction_fails():
    row = check(scan_off_by(), SMALL, own=(), reverses=(True,))
    assert row["status"] == "failed"


def test_own_arguments_have_gradients_of_their_own():
    case = Case(Shape(2, 6, 3, 2), MAMBA)

    def scan(arrays):
        y, last = zip(
            *(run(arrays | {"A": A}, case, "sequential") for A in arrays["A"]), strict=True
        )
        return jnp.stack(y), jnp.stack(last)

    assert check(scan, case, own=("A",), reverses=(False, False))["status"] == "passed"


def test_what_is_no_number_fails():
    row = judged({"y": float("nan"), "z": 1e-7}, tolerance=1e-5)
    assert row["status"] == "failed"
    assert row["errors"] == {"y": None, "z": 1e-7}
    assert row["worst"] == 1e-7


def test_the_cases_cover_what_the_kernels_can():
    cases = kernel_cases(rehearse=False)
    assert len(set(map(str, cases))) == len(cases)
    assert {case.dtype for case in cases} == {"float32", "bfloat16"}
    assert {case.reverse for case in cases} == {False, True}
    assert {1, 64} < {case.shape.states for case in cases}
    assert max(case.shape.states for case in cases) > 64
    assert set(EVERYTHING) <= {
        name for case in cases for name in case.given if len(case.given) == 1
    }
    assert not all(case.softplus for case in cases)
    assert len(other_cases(rehearse=False)) > len(other_cases(rehearse=True))
