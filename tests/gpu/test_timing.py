"""Every program gets samples alone and queued, in turns; queues wait once."""

import time

import pytest

from echojax.gpu.timing import spread, time_in_turns
from echojax.scan_comparison.programs import Program


def program(start, wait=lambda _: None):
    return Program(start, wait, None, {}, 0)


def test_turns_queues_and_waits():
    events = []

    def launch(name):
        return program(
            lambda: events.append(f"{name} start"), lambda _: events.append(f"{name} wait")
        )

    samples = time_in_turns([launch("a"), launch("b")], seconds=0.0, rounds=2)
    assert [(len(s.alone), len(s.queued)) for s in samples] == [(2, 2), (2, 2)]
    order = [event[0] for event in events]
    turns = [x for x, before in zip(order, [None, *order], strict=False) if x != before]
    assert turns == ["a", "b", "a", "b"]
    starts, waits = (sum(event == f"a {kind}" for event in events) for kind in ("start", "wait"))
    assert waits == 4
    assert starts == 2 * (1 + 50)  # calls that take no time are queued


def test_a_slow_call_is_not_queued():
    calls = []
    (samples,) = time_in_turns(
        [program(lambda: calls.append(time.sleep(0.02)))], seconds=0.0, rounds=3
    )
    assert len(calls) == len(samples.alone) == 3
    assert samples.queued == samples.alone


def test_spread():
    assert spread([3.0, 1.0, 2.0, 4.0, 5.0]) == {
        "median_seconds": 3.0, "quartiles_seconds": [2.0, 4.0], "samples": 5,
    }  # fmt: skip


def test_an_error_is_not_swallowed():
    def broken():
        raise RuntimeError("launch failed")

    with pytest.raises(RuntimeError, match="launch failed"):
        time_in_turns([program(broken)], seconds=0.1)
