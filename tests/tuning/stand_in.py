"""Stands for training in tests of searches."""

import contextlib
import math

import pytest

from echojax.training.members import Outcome, most_epochs
from echojax.tuning import page, search


def outcome_of(config, epochs, *, stopped):
    """Return what a training comes to: the nearer its rate to .01 and its dropout to .2."""
    off = abs(math.log10(config.learning_rate) + 2) / 10 + abs(config.dropout - 0.2) / 5
    history = {n: (0.5 - off) * (1 - 0.5**n) for n in range(1, epochs + 1)}
    ended = "stopped by the search" if stopped else f"{epochs} epochs done"
    if config.learning_rate > 0.05:
        return Outcome({1: 0.1}, 1, "diverged: the loss of step 7 is not finite", True, 7, 0.5)
    return Outcome(history, epochs, ended, False, epochs * 10, 2.0)


class Members:
    """Stands for training; raises what it is told to at a call."""

    def __init__(self):
        self.calls, self.raised = 0, {}

    def __call__(self, configs, dataset, split, folders, console, *, decide, stopped_line):
        self.calls += 1
        for folder in folders:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        if error := self.raised.pop(self.calls, None):
            error()
        length = {i: most_epochs(one, split) for i, one in enumerate(configs)}
        for epoch in range(1, length[0] + 1):
            outcomes = {i: outcome_of(configs[i], epoch, stopped=False) for i in length}
            scores = {
                i: one.history[epoch]
                for i, one in outcomes.items()
                if length[i] >= epoch and not one.failed
            }
            for i in decide(epoch, scores) if scores else ():
                length[i] = epoch
        ended = [n < most_epochs(configs[i], split) for i, n in length.items()]
        return [outcome_of(config, length[i], stopped=ended[i]) for i, config in enumerate(configs)]


@contextlib.contextmanager
def stand_in_for_training():
    """Give what trains in place of ``train_members`` inside; pages are without figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "train_members", members := Members())
        patch.setattr(page, "_pictures", lambda search: [])  # they take their time
        yield members
