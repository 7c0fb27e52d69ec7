import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echojax.data import Batches, Examples, iterate
from echojax.data.batching import _mix64, shuffled


def examples(count, max_len=3):
    """Examples whose target tells their number."""
    items = np.arange(1, count + 2, dtype=np.int32)
    targets = np.arange(1, count + 1)
    return Examples(items, np.zeros_like(targets), targets, np.zeros(count, np.int32), max_len)


def numbers(batch):
    return (batch["targets"] - 2)[batch["weights"] > 0].tolist()


def same(first, second):
    return first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)


@given(st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 5))
def test_shuffle_is_a_permutation(size, seed, epoch):
    found = shuffled(np.arange(size), size, seed, epoch)
    assert sorted(found.tolist()) == list(range(size))


def test_shuffle_computes_each_position_alone():
    whole = shuffled(np.arange(1000), 1000, 3, 4)
    assert [int(shuffled(np.array([i]), 1000, 3, 4)[0]) for i in range(1000)] == whole.tolist()


def test_shuffle_looks_random():
    """Chi-square of where positions go, and of the step between neighbours, over many epochs."""
    size, epochs = 20, 2000
    orders = np.array([shuffled(np.arange(size), size, 7, epoch) for epoch in range(epochs)])
    places = np.array([np.bincount(orders[:, i], minlength=size) for i in range(size)])
    steps = np.bincount(((orders[:, 1:] - orders[:, :-1]) % size).ravel(), minlength=size)[1:]
    for counts, degrees in ((places, (size - 1) ** 2), (steps, size - 2)):
        expected = counts.mean()
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_numbers_are_mixed_as_splitmix64_does():
    """The first two that its authors' program gives for the seed 0."""
    states = np.array([0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], np.uint64)
    assert _mix64(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_shuffles_of_neighbouring_seeds_and_epochs_differ():
    orders = {
        tuple(shuffled(np.arange(50), 50, seed, epoch)) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 3))
def test_every_epoch_shows_every_example_once(count, batch_size, seed):
    source = Batches(examples(count), batch_size, seed)
    assert source.per_epoch == -(-count // batch_size)
    for epoch in range(2):
        steps = range(epoch * source.per_epoch, (epoch + 1) * source.per_epoch)
        seen = [number for step in steps for number in numbers(source[step])]
        assert sorted(seen) == list(range(count))
    for step in range(2 * source.per_epoch):
        batch = source[step]
        assert batch["weights"].dtype == np.float32
        assert batch["item_ids"].shape == (batch_size, 3)
        assert (batch["lengths"] >= 1).all()
        assert (batch["targets"] >= 1).all()
        full = (step + 1) % source.per_epoch != 0
        assert not full or batch["weights"].all()


def test_hosts_make_the_rows_they_ask_for():
    whole = Batches(examples(25), 10, 1)
    halves = [Batches(examples(25), 10, 1, rows=range(a, a + 5)) for a in (0, 5)]
    for step in range(6):
        parts = [half[step] for half in halves]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert same(joined, whole[step])


def test_iterating_from_any_step_gives_the_numbered_batches():
    source = Batches(examples(25), 10, 1)
    for start in (0, 2, 7):
        iterator = iterate(source, start, start + 9, prefetch=2)
        found = list(iterator)
        iterator.close()
        assert len(found) == 9
        assert all(same(batch, source[start + i]) for i, batch in enumerate(found))


def test_iterating_without_end_can_be_left():
    source = Batches(examples(25), 10, 1)
    iterator = iterate(source)
    for step in range(50):
        assert same(next(iterator), source[step])
    iterator.close()


WORKERS = """
import multiprocessing
import os
import signal
import sys

import numpy as np
from echojax.data import Batches, Examples, iterate

if __name__ == "__main__":
    targets = np.arange(1, 26)
    items, zeros = np.arange(1, 27, dtype=np.int32), np.zeros_like(targets)
    source = Batches(Examples(items, zeros, targets, zeros, 3), 10, 1)
    iterator = iterate(source, 4, 16, workers=2, prefetch=1)
    if "killed" in sys.argv:
        next(iterator)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    found = list(iterator)
    iterator.close()
    assert len(found) == 12
    for step, batch in enumerate(found, 4):
        assert all((batch[name] == source[step][name]).all() for name in source[step])
    del found, batch, iterator
    print("same batches")
"""


@pytest.mark.slow
def test_worker_processes_give_the_same_batches(tmp_path):
    """In a process of its own: grain's workers import the main module again."""
    script = tmp_path / "main.py"
    script.write_text(WORKERS)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "same batches\n", done.stderr


@pytest.mark.slow
def test_worker_processes_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(WORKERS)
    command = [sys.executable, script, "killed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pids = process.stdout.readline().split()
    assert len(pids) >= 2
    until = time.monotonic() + 30
    while any(Path("/proc", pid).exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.2)
    assert not [pid for pid in pids if Path("/proc", pid).exists()]
