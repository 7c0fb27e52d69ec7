"""Sharing the time of traced steps among their parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.training.profile import _Device, split

spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1])), max_size=6
)
SECOND = 1e9


def seconds(spans):
    return [(SECOND * start, SECOND * end) for start, end in spans]


def test_each_moment_counts_once():
    # A loop (0-10) holds a collective (2-5), behind which a kernel runs from 4 on.
    device = _Device(
        any=seconds([(0, 10), (2, 5), (4, 6)]),
        collectives=seconds([(2, 5)]),
        compute=seconds([(4, 6)]),
    )
    found = split(seconds([(1, 8), (8, 20)]), seconds([(9, 12)]), [device])
    assert found.parts is not None
    assert found.parts._asdict() == pytest.approx(
        {"compute": 7, "collectives": 2, "input": 2, "host": 8}
    )
    assert (found.steps, found.wall, found.waited, found.hidden) == (2, 19, 3, 1)


def test_devices_are_averaged():
    devices = [_Device(seconds([(0, end)]), [], seconds([(0, end)])) for end in (2, 4)]
    found = split(seconds([(0, 10)]), [], devices)
    assert found.parts is not None
    assert found.parts == pytest.approx((3, 0, 0, 7))


def test_without_events_of_the_program_nothing_is_guessed():
    found = split(seconds([(0, 3)]), seconds([(0, 1)]), [])
    assert found.parts is None
    assert (found.wall, found.waited) == (3, 1)


@given(st.lists(st.tuples(spans, spans), min_size=1, max_size=3), spans)
def test_parts_sum_to_the_wall_time(devices, inputs):
    steps = [(10, 25), (25, 50)]
    made = [_Device(a + b, a, b) for a, b in devices]
    found = split(seconds(steps), seconds(inputs), [_Device(*map(seconds, d)) for d in made])
    inside = np.arange(10, 50) + 0.5
    busy = [[any(a < x < b for a, b in device.any) for x in inside] for device in made]
    assert found.parts is not None
    assert sum(found.parts) == pytest.approx(40)
    assert found.parts.compute + found.parts.collectives == pytest.approx(
        np.mean(np.sum(busy, axis=1))
    )
