"""The guard around an input: a parse, a line, or a failure that is told from both."""

import time

import pytest

from echojax.errors import UserError
from echojax.fuzzing import guard
from echojax.fuzzing.guard import attempt, limits


def raises(error):
    raise error


@pytest.mark.parametrize(
    ("read", "kind", "word"),
    [
        (lambda: 1, "parsed", ""),
        (lambda: raises(UserError("line 3: odd")), "refused", "line 3"),
        (lambda: raises(KeyError("hr@10")), "failed", "KeyError"),
        (lambda: raises(AssertionError("another state")), "failed", "another state"),
        (lambda: bytearray(guard.INPUT_BYTES * 2), "failed", "MemoryError"),
    ],
)
def test_verdicts(read, kind, word):
    with limits():
        verdict = attempt(read)
    assert verdict.kind == kind
    assert word in verdict.error


def test_a_hang_is_cut_short(monkeypatch):
    monkeypatch.setattr(guard, "INPUT_SECONDS", 0.05)

    def hang():
        try:
            while True:
                time.sleep(0.01)
        except Exception:  # what a reader may do
            return

    with limits():
        assert attempt(hang).kind == "failed"
        assert attempt(lambda: time.sleep(0.001)).kind == "parsed"
