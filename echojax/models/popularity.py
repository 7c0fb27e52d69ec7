"""Popularity: the same list for everybody."""

import numpy as np

from echojax.data import Examples
from echojax.models.heuristic import HeuristicModel, training_counts


class Popularity(HeuristicModel):
    """Scores every item by how often it occurs in training."""

    def __init__(self, train: Examples, num_items: int):
        self._counts_V = training_counts(train, num_items).astype(np.float64)

    def scores(self, item_ids_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Return (B, V); see ``HeuristicModel.scores``."""
        return np.broadcast_to(self._counts_V, (len(lengths_B), self._counts_V.size))
