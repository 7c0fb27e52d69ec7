"""First-order Markov: what followed the last item most often."""

import numpy as np

from echojax.data import Examples
from echojax.models.heuristic import HeuristicModel, training_counts


class Markov(HeuristicModel):
    """Scores items by how often they followed the last one in training; popularity breaks ties."""

    def __init__(self, train: Examples, num_items: int):
        before, behind = train.items_T[train.target_M - 1], train.items_T[train.target_M]
        self._pairs, self._times = np.unique(
            before.astype(np.int64) * num_items + behind, return_counts=True
        )
        self._starts = np.searchsorted(self._pairs, np.arange(num_items + 1) * num_items)
        counts_V = training_counts(train, num_items)
        self._backoff_V = counts_V / (counts_V.sum() + 1)  # always below one transition

    def scores(self, item_ids_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Return (B, V); see ``HeuristicModel.scores``."""
        rows_B = np.arange(len(lengths_B))
        scores_BxV = np.tile(self._backoff_V, (rows_B.size, 1))
        last_B = item_ids_BxL[rows_B, lengths_B - 1]
        followers_B = self._starts[last_B + 1] - self._starts[last_B]
        offsets_B = np.cumsum(followers_B) - followers_B
        row = np.repeat(rows_B, followers_B)
        entry = np.arange(row.size) + (self._starts[last_B] - offsets_B)[row]
        scores_BxV[row, self._pairs[entry] % scores_BxV.shape[1]] += self._times[entry]
        return scores_BxV
