import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echojax.evaluation.tiles import top_k


def expected(user, items, excluded, num_items, k):
    scores = (user @ items.T).astype(np.float64)
    found = []
    for row, left_out in zip(scores, excluded, strict=True):
        allowed = [v for v in range(1, num_items) if v not in left_out]
        best = sorted(allowed, key=lambda v: (-row[v], v))[:k]
        found.append(best + [0] * (k - len(best)))
    return np.array(found)


# (rows, k, tile), each compiled once: tiles of one row, that divide the rows or not, and of all of
# them and more; k of one, of a tile and more, and of more than there are rows.
SIZES = [(2, 1, 1), (2, 12, 45), (9, 12, 2), (17, 3, 16), (17, 12, 17), (40, 5, 8), (40, 7, 7)]
jitted = jax.jit(top_k, static_argnames=("k", "tile"))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 99))
def test_exact_for_every_tile_and_k(sizes, seed):
    num_rows, k, tile = sizes
    rng = np.random.default_rng(seed)
    # Small integers: sums are exact, and there are many ties.
    user = rng.integers(-2, 3, (3, 4)).astype(np.float32)
    items = rng.integers(-2, 3, (num_rows, 4)).astype(np.float32)
    excluded = rng.integers(0, num_rows, (3, 5)).astype(np.int32)
    num_items = int(rng.integers(1, num_rows + 1))
    top = jitted(user, items, excluded, num_items, k=k, tile=tile)
    wanted = expected(user, items, excluded, num_items, k)
    np.testing.assert_array_equal(top.item_BxK, wanted)
    scores = np.take_along_axis(user @ items.T, wanted, axis=1)
    np.testing.assert_array_equal(top.score_BxK, np.where(wanted > 0, scores, -np.inf))


def test_a_score_of_nan_is_never_recommended():
    items = np.array([[0.0], [1.0], [np.nan], [2.0]], np.float32)
    top = top_k(np.ones((1, 1), np.float32), items, np.zeros((1, 1), np.int32), 4, k=3)
    assert top.item_BxK.tolist() == [[3, 1, 0]]


def test_approximate_search_reaches_its_recall():
    rng = np.random.default_rng(0)
    user, items = rng.normal(size=(8, 16)), rng.normal(size=(5000, 16))
    arguments = (user, items, np.zeros((8, 1), np.int32), 5000)
    exact = np.asarray(top_k(*arguments, k=100, tile=2048).item_BxK)
    near = np.asarray(top_k(*arguments, k=100, tile=2048, recall=0.9).item_BxK)
    recall = np.mean([len({*a} & {*b}) / 100 for a, b in zip(exact, near, strict=True)])
    assert recall >= 0.85


@pytest.mark.parametrize("num_items", [4096, 65536])
def test_memory_does_not_grow_with_the_catalogue(num_items):
    shapes = [((64, 8), "float32"), ((num_items, 8), "float32"), ((64, 4), "int32")]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    program = jax.jit(lambda *a: top_k(*a, num_items, k=16, tile=1024)).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < 5 * 64 * 1024 * 4
