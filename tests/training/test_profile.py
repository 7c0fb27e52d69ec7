"""The profile of a loop whose waits are known."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.training.profile import Profile, lines, shown_bytes, split, total
from echojax.training.step import CompiledStep

WAIT, THINK = 0.02, 0.03  # seconds of a step: for a batch, and in the host's own code
SECONDS = {"trace": 0.1, "lower": 0.2, "compile": 0.3, "cached": True}


class Unreadable:
    """A program of a backend that tells nothing about it."""

    def as_text(self):
        return None

    def memory_analysis(self):
        return None


@pytest.fixture(scope="module")
def program():
    def step(x):
        return jax.lax.fori_loop(0, 20, lambda _, x: jnp.tanh(x @ x), x)

    return jax.jit(step).lower(jnp.eye(200)).compile()


@pytest.fixture(autouse=True)
def _logged(caplog):
    caplog.set_level("INFO", "echojax")


def run(folder, program, shown, steps, epochs):
    profile = Profile(steps, folder)
    profile.record_program(CompiledStep(shown, SECONDS))
    x = jnp.eye(200)
    for length in epochs:
        for _ in range(length):
            profile.next_step(x)
            with profile.waiting():
                time.sleep(WAIT)
            x = jax.block_until_ready(program(x))
            time.sleep(THINK)
        profile.end_epoch(x)
        time.sleep(0.2)  # a validation, no part of any step
    profile.end_run()
    file = folder / "profile.json"
    return json.loads(file.read_text()) if file.exists() else None


@pytest.mark.parametrize(
    "epochs", [(7, 2), *(pytest.param(one, marks=pytest.mark.slow) for one in ((9,), (3, 3, 3)))]
)
def test_waits_are_found_where_they_were(tmp_path, program, epochs, caplog):
    found = run(tmp_path, program, program, 3, epochs)
    assert found["steps"] == 3
    assert found["seconds"]["input"] >= 3 * WAIT
    assert found["seconds"]["host"] >= 3 * THINK
    assert found["seconds"]["compute"] > 0
    assert found["seconds"]["collectives"] == 0
    assert sum(found["seconds"].values()) == pytest.approx(found["wall_seconds"])
    assert found["seconds_a_step_before_the_trace"] >= WAIT + THINK
    assert "program: trace 0.10 s, lower 0.20 s, compile 0.30 s (from the cache)" in caplog.messages


def test_no_part_is_guessed(tmp_path, program, caplog):
    found = run(tmp_path, program, Unreadable(), 1, (8,))
    assert set(found["seconds"].values()) == {"unknown"}
    assert found["waited_for_input_seconds"] >= WAIT
    assert found["memory"]["step"] == "unknown"
    assert "  compute     unknown" in caplog.messages


def test_a_run_that_ends_early_reports_what_there_is(tmp_path, program):
    found = run(tmp_path, program, program, 10, (7,))
    assert found["steps"] == 2


def test_a_run_without_a_step_to_trace_says_so(tmp_path, program, caplog):
    found = run(tmp_path, program, program, 10, (5,))
    assert found is None
    assert caplog.messages == [
        "profile: no trace; the first 5 steps are left out, and there were 5"
    ]


def test_without_steps_it_does_nothing(tmp_path, program, caplog):
    found = run(tmp_path, program, program, 0, (7,))
    assert (caplog.messages, found, list(tmp_path.iterdir())) == ([], None, [])


def test_sizes_are_shown_in_units_that_suit_them():
    shown = [shown_bytes(size) for size in (0, 1000, 2048, 3 * 2**20, 5 * 2**40)]
    assert shown == ["0 bytes", "1,000 bytes", "2 KiB", "3 MiB", "5,120 GiB"]


def test_the_table_has_a_line_a_part():
    found = {
        "steps": 2, "wall_seconds": 0.2, "seconds_a_step_before_the_trace": 0.09,
        "seconds": {"compute": 0.1, "collectives": 0.05, "input": 0.02, "host": 0.03},
        "waited_for_input_seconds": 0.04, "compile": SECONDS,
        "memory": {"step": {"temp": 2048}, "live_array_bytes": 1024},
    }  # fmt: skip
    table = lines(found)
    assert table[0] == "profile: 2 steps of 100.00 ms (90.00 ms before the trace was on)"
    assert [line.split() for line in table[1:3]] == [
        ["compute", "50.00", "ms", "a", "step", "50.0", "%"],
        ["collectives", "25.00", "ms", "a", "step", "25.0", "%"],
    ]


spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1])), max_size=6
)
SECOND = 1e9


def seconds(spans):
    return [(SECOND * start, SECOND * end) for start, end in spans]


def test_each_moment_counts_once():
    # A loop (0-10) holds a collective (2-5), behind which a kernel runs from 4 on.
    device = {
        "containers": seconds([(0, 10)]),
        "collectives": seconds([(2, 5)]),
        "compute": seconds([(4, 6)]),
    }
    found = split(seconds([(1, 8), (8, 20)]), seconds([(9, 12)]), [device])
    assert found.parts_P == pytest.approx([7, 2, 2, 8, 1])
    assert (found.steps, found.wall, found.waited) == (2, 19, 3)


def test_devices_are_averaged_and_traces_added_up():
    devices = [{"compute": seconds([(0, end)])} for end in (2, 4)]
    found = split(seconds([(0, 10)]), [], devices)
    assert found.parts_P == pytest.approx([3, 0, 0, 7, 0])
    found = total([found, found])
    assert found.parts_P == pytest.approx([6, 0, 0, 14, 0])
    assert (found.steps, found.wall, found.devices) == (2, 20, 2)


@given(st.lists(st.tuples(spans, spans, spans), min_size=1, max_size=3), spans)
def test_parts_sum_to_the_wall_time(devices, inputs):
    kinds = ("containers", "collectives", "compute")
    made = [dict(zip(kinds, map(seconds, device), strict=True)) for device in devices]
    found = split(seconds([(10, 25), (25, 50)]), seconds(inputs), made)
    busy = [
        any(start < x < end for spans in device for start, end in spans)
        for device in devices
        for x in np.arange(10, 50) + 0.5
    ]
    *parts, _ = found.parts_P
    assert sum(parts) == pytest.approx(40)
    assert parts[0] + parts[1] == pytest.approx(40 * np.mean(busy))
