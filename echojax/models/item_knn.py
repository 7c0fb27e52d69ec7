"""Item-based nearest neighbours (Deshpande and Karypis 2004), the newest items first."""

import numpy as np
from scipy import sparse

from echojax.data import Examples
from echojax.models.heuristic import HeuristicModel, training_positions

_NEIGHBOURS = 100
_ROWS = 1024  # items whose similarities are computed at once


class ItemKNN(HeuristicModel):
    """Scores items by their similarity to those of the history.

    Similarity is the cosine between the items' columns of the binary user-item matrix of the
    training part; each item keeps its 100 nearest. A history's item counts 1 / (1 + age), age 0
    being the newest: that makes a model of sets one of sequences.
    """

    def __init__(self, train: Examples, num_items: int):
        positions = training_positions(train)
        user = np.searchsorted(np.unique(train.start_M), positions, side="right") - 1
        seen_UxV = sparse.csr_matrix(
            (np.ones(positions.size), (user, train.items_T[positions])),
            shape=(int(user.max()) + 1, num_items),
        )
        seen_UxV.data[:] = 1.0  # a repeated item counts once
        norm_V = np.sqrt(np.maximum(1, np.asarray(seen_UxV.sum(axis=0)).ravel()))
        unit_UxV = (seen_UxV @ sparse.diags(1 / norm_V)).tocsc()
        blocks = [
            _nearest((unit_UxV[:, first : first + _ROWS].T @ unit_UxV).toarray(), first)
            for first in range(0, num_items, _ROWS)
        ]
        self._similarity_VxV = sparse.vstack(blocks).tocsr()

    def scores(self, item_ids_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Return (B, V); see ``HeuristicModel.scores``."""
        age_BxL = lengths_B[:, None] - 1 - np.arange(item_ids_BxL.shape[1])
        row, column = np.nonzero(age_BxL >= 0)
        history_BxV = sparse.csr_matrix(
            (1 / (1.0 + age_BxL[row, column]), (row, item_ids_BxL[row, column])),
            shape=(len(lengths_B), self._similarity_VxV.shape[0]),
        )
        return (history_BxV @ self._similarity_VxV).toarray()


def _nearest(similarity_RxV: np.ndarray, first: int) -> sparse.csr_matrix:
    """Keep each row's largest similarities to other items."""
    rows = np.arange(len(similarity_RxV))
    similarity_RxV[rows, first + rows] = 0
    if similarity_RxV.shape[1] > _NEIGHBOURS:
        far = np.argpartition(-similarity_RxV, _NEIGHBOURS, axis=1)[:, _NEIGHBOURS:]
        np.put_along_axis(similarity_RxV, far, 0, axis=1)
    return sparse.csr_matrix(similarity_RxV)
