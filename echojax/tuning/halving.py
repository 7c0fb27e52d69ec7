"""Successive halving of trials that are trained together."""

import logging
from collections.abc import Sequence

log = logging.getLogger(__name__)


class Halving:
    """Stops the worse half of some trials repeatedly, until one is left, which is not stopped.

    Of four trials, two go on after a quarter of the epochs, and one after half of them; with more
    trials the first halving comes earlier. They are compared by their best score so far.
    """

    def __init__(self, numbers: Sequence[int], epochs: int):
        self.stopped: set[int] = set()  # places in ``numbers``
        self._numbers, self._epochs = numbers, epochs
        self._best: dict[int, float] = {}
        times = max(len(numbers), 1).bit_length() - 1
        self._rungs = [
            (epochs >> (times + 1 - done), -(-len(numbers) >> done)) for done in range(1, times + 1)
        ]

    def __call__(self, epoch: int, scores: dict[int, float]) -> list[int]:
        """Return the places of the trials that stop after an epoch, given the scores of all."""
        for place, score in scores.items():
            self._best[place] = max(score, self._best.get(place, score))
        keep = len(scores)
        while self._rungs and self._rungs[0][0] <= epoch < self._epochs:
            keep = min(keep, self._rungs.pop(0)[1])
        ranked = sorted(scores, key=lambda place: (-self._best[place], place))
        if stopped := ranked[keep:]:
            self.stopped.update(stopped)
            left = ", ".join(str(self._numbers[place]) for place in sorted(ranked[:keep]))
            best = self._best[ranked[0]]
            log.info(f"epoch {epoch}: best {best:.4f}; of these trials {left} go on")
        return stopped
