"""What is chosen for the training step: how narrow windows may be cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echojax.training.builders import choose_columns


def positions(lengths, widths):
    """Return how many positions are computed where each example takes the first that holds it."""
    return sum(
        next((width for width in sorted(widths) if width > length), max(widths))
        for length in lengths
    )


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(1, 20))
@settings(deadline=None)
def test_each_width_spares_a_tenth_and_no_other_would(lengths, max_len):
    lengths = np.minimum(lengths, max_len)
    chosen = choose_columns(lengths, max_len, worth=0)
    assert chosen == sorted(set(chosen))
    assert all(1 < width < max_len for width in chosen)
    now = positions(lengths, [*chosen, max_len])
    assert now <= 0.9 ** len(chosen) * max_len * lengths.size * (1 + 1e-9)
    for width in range(1, max_len):
        assert positions(lengths, [*chosen, width, max_len]) > 0.9 * now - 1e-9


@pytest.mark.parametrize(
    ("lengths", "max_len", "widths"),
    [([50] * 9, 50, []), ([3] * 9, 50, [4]), ([3] * 9 + [20] * 3, 50, [4, 21]), ([1], 1, [])],
)
def test_widths_hold_what_is_frequent(lengths, max_len, widths):
    assert choose_columns(np.array(lengths), max_len, worth=0) == widths


def test_a_width_that_spares_too_little_to_pay_for_its_compilation_is_not_chosen():
    lengths = np.array([3] * 1000)
    assert choose_columns(lengths, 50, worth=46_000) == [4]
    assert choose_columns(lengths, 50, worth=46_001) == []
