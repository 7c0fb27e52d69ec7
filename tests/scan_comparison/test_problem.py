import jax
import numpy as np
import pytest

from echojax.scan_comparison.problem import error, expected, input_bytes, make_problem, oracle_cut
from echojax.scan_comparison.settings import Shape
from selective_scan import selective_scan_gradients, selective_scan_reference


def test_the_cut_of_the_whole_is_the_oracle_of_the_cut():
    """Gradients that sum over batch and channels are right too, as dy is 0 outside the cut."""
    problem = make_problem(Shape(9, 3, 50, 2), "float32")
    assert (len(problem.cut.batch), len(problem.cut.channels)) == (4, 32)
    whole = {name: np.asarray(x) for name, x in problem.arguments.items()}
    y, last = selective_scan_reference(**whole, delta_softplus=True)
    gradients = selective_scan_gradients(
        np.asarray(problem.dy), np.zeros_like(last), **whole, delta_softplus=True
    )
    for name, wanted in expected(problem).items():
        actual = problem.cut.of(name, y if name == "y" else gradients[name])
        np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-12)
        assert np.abs(wanted).max() > 0


def test_large_arrays_have_the_dtype_and_time_steps_the_usual_size():
    arguments = make_problem(Shape(2, 64, 8, 4), "bfloat16").arguments
    for name, x in arguments.items():
        assert x.dtype == ("float32" if name in ("A", "D", "delta_bias") else "bfloat16")
    bias_steps = jax.nn.softplus(arguments["delta_bias"])
    assert 0.9e-3 < bias_steps.min() <= bias_steps.max() < 0.11
    assert np.asarray(arguments["A"][0]).tolist() == [-1, -2, -3, -4]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_input_bytes(dtype):
    shape = Shape(3, 5, 7, 2)
    problem = make_problem(shape, dtype)
    assert input_bytes(shape, dtype) == sum(
        x.nbytes for x in (*problem.arguments.values(), problem.dy)
    )


def test_the_cut_is_small_and_takes_the_ends():
    for shape in (Shape(2048, 200, 128, 32), Shape(8, 16384, 2048, 16), Shape(1, 1, 1, 1)):
        cut = oracle_cut(shape)
        taken = len(cut.batch) * len(cut.channels) * shape.length * shape.states
        assert taken <= 2_000_000
        assert cut.batch[0] == 0
        assert len(cut.batch) == 1 or cut.batch[-1] == shape.batch - 1
        assert len(cut.channels) == 1 or cut.channels[-1] == shape.channels - 1


def test_error_is_relative_to_the_largest_value():
    assert error(np.array([1.0, -3.5]), np.array([1.0, -4.0])) == 0.125
    assert error(np.array([0.5]), np.zeros(1)) == 0.5
    assert np.isnan(error(np.array([np.nan, 1]), np.ones(2)))
