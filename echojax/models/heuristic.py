"""Models that count instead of learning by gradient: what all others must beat.

They score like the others, in NumPy: ``scores(item_ids_BxL, lengths_B) -> (B, V)``.
"""

from abc import abstractmethod

import numpy as np

from echojax.data import Examples


class HeuristicModel:
    """Fitted by one pass over the training part; every instance is ready to score.

    Args:
        train: the training examples.
        num_items: V, with padding as item 0.
    """

    @abstractmethod
    def __init__(self, train: Examples, num_items: int):
        raise NotImplementedError

    @abstractmethod
    def scores(self, item_ids_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Return the scores of every item as the next one, float64 (B, V).

        Args:
            item_ids_BxL: histories, oldest item first, right padded with 0.
            lengths_B: items in each row, at least 1.
        """
        raise NotImplementedError


def training_counts(train: Examples, num_items: int) -> np.ndarray:
    """Return each item's interactions in the training part, (V,) int64."""
    return np.bincount(train.items_T[training_positions(train)], minlength=num_items)


def training_positions(train: Examples) -> np.ndarray:
    """Return the places in ``items_T`` that belong to training, in order."""
    # All training targets, and the first item of each user, which is no one's target.
    return np.union1d(train.start_M, train.target_M)
