"""Non-learned baselines, which are fitted in one pass over the training part.

They score like learned models, in NumPy: ``scores(item_ids_BxL, lengths_B) -> (B, V)``.
"""

import copy
from abc import ABC, abstractmethod

import numpy as np
from scipy import sparse

from echojax.data import Examples
from echojax.models.base import check_histories

_NEIGHBOURS = 100
_SIMILARITIES = 2**24  # how many similarities are computed at once


class HeuristicModel(ABC):
    """A baseline that its constructor fits in one pass over the training part."""

    def __init__(self, train: Examples, num_items: int):
        self.num_items = num_items

    def __call__(self, examples: Examples, indices: np.ndarray) -> np.ndarray:
        """Return ``scores`` of examples, by number."""
        shown = examples.gather(indices)
        return self.scores(shown["item_ids"], shown["lengths"])

    def scores(self, item_ids_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Return the scores of every item as the next one, float64 (B, V).

        Histories are right padded with 0, with the oldest item first; lengths are at least 1.
        Invalid item numbers or lengths are a ``ValueError``.
        """
        check_histories(item_ids_BxL, lengths_B, self.num_items)
        return self._scores(item_ids_BxL, lengths_B)

    @abstractmethod
    def _scores(self, item_ids_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def training_counts(train: Examples, num_items: int) -> np.ndarray:
    """Return the number of interactions of each item in the training part, (V,) int64.

    The only training event of a user, with which nothing is predicted, is not counted.
    """
    return np.bincount(train.items_T[training_positions(train)], minlength=num_items)


def training_positions(train: Examples) -> np.ndarray:
    """Return the positions in ``items_T`` that belong to training, in order."""
    # All training targets, and the first item of each user, which is not a target.
    is_training_T = np.zeros(train.items_T.size, bool)
    is_training_T[train.start_M] = is_training_T[train.target_M] = True
    return np.flatnonzero(is_training_T)


def _training_events(train: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return the user, numbered from 0, and the item of each event of training, in order."""
    positions = training_positions(train)
    begins_T = np.zeros(train.items_T.size, bool)
    begins_T[train.start_M] = True
    return np.cumsum(begins_T)[positions] - 1, train.items_T[positions]


class Popularity(HeuristicModel):
    """Scores every item by how often it occurs in training."""

    def __init__(self, train: Examples, num_items: int):
        super().__init__(train, num_items)
        self._counts_V = training_counts(train, num_items).astype(np.float64)

    def _scores(self, item_ids_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self._counts_V, (len(lengths_B), self._counts_V.size))


class Markov(HeuristicModel):
    """Scores items by how often they followed the last one in training; popularity breaks ties."""

    def __init__(self, train: Examples, num_items: int):
        super().__init__(train, num_items)
        before, after = train.items_T[train.target_M - 1], train.items_T[train.target_M]
        self._times_VxV = _counted(before, after, num_items)
        counts_V = training_counts(train, num_items)
        self._backoff_V = counts_V / (counts_V.sum() + 1)  # always below one transition

    def _scores(self, item_ids_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        last_B = item_ids_BxL[np.arange(len(lengths_B)), lengths_B - 1]
        return self._times_VxV[last_B].toarray() + self._backoff_V


class ItemKNN(HeuristicModel):
    """Scores items by their similarity to those of the history.

    Similarity is the cosine between the items' columns of the binary user-item matrix of the
    training part; each item keeps its 100 nearest neighbours. An item of the history has the weight
    1 / (1 + age), with age 0 for the newest, so that the order of the history matters.
    """

    def __init__(self, train: Examples, num_items: int):
        super().__init__(train, num_items)
        user, items = _training_events(train)
        seen_UxV = sparse.csr_matrix(
            (np.ones(items.size), (user, items)), shape=(int(np.max(user)) + 1, num_items)
        )
        seen_UxV.data[:] = 1.0  # a repeated item counts once
        norm_V = np.sqrt(np.maximum(1, np.asarray(seen_UxV.sum(axis=0)).ravel()))
        unit_UxV = (seen_UxV @ sparse.diags(1 / norm_V)).tocsc()
        rows = max(1, _SIMILARITIES // num_items)
        blocks = [
            _nearest((unit_UxV[:, first : first + rows].T @ unit_UxV).toarray(), first)
            for first in range(0, num_items, rows)
        ]
        self._similarity_VxV = sparse.vstack(blocks).tocsr()

    def _scores(self, item_ids_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        history_BxV = _fading(item_ids_BxL, lengths_B, self.num_items)
        return (history_BxV @ self._similarity_VxV).toarray()


class LaggedCount(HeuristicModel):
    """Scores items by how often they came soon after the newest ones in training.

    The score of t is the sum over lags j = 1..J, ``lags``, of ``count(h_j, t) / (j n(h_j)^a)``: h_j
    is the j-th newest item of the history, ``count(h, t)`` how often t was among the next J events
    after h, n(h) how often h occurs, and a the ``damping``. Popularity breaks ties.
    """

    def __init__(self, train: Examples, num_items: int, *, lags: int = 4, damping: float = 0.5):
        super().__init__(train, num_items)
        self.lags, self.damping = lags, damping
        user, items = _training_events(train)
        soon_VxV = sparse.csr_matrix((num_items, num_items))
        for lag in range(1, lags + 1):
            same = user[lag:] == user[:-lag]
            soon_VxV += _counted(items[:-lag][same], items[lag:][same], num_items)
        self._soon_VxV = soon_VxV
        self._counts_V = counts_V = training_counts(train, num_items)
        self._backoff_V = 1e-9 * counts_V / (counts_V.sum() + 1)  # far below any count
        self._damp()

    def damped(self, damping: float) -> "LaggedCount":
        """Return the model with another a; it shares the counts."""
        model = copy.copy(self)
        model.damping = damping
        model._damp()
        return model

    def _damp(self) -> None:
        weights_V = 1 / np.maximum(1.0, self._counts_V) ** self.damping
        self._damped_VxV = sparse.diags(weights_V) @ self._soon_VxV

    def _scores(self, item_ids_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        history_BxV = _fading(item_ids_BxL, lengths_B, self.num_items, newest=self.lags)
        scores_BxV = (history_BxV @ self._damped_VxV).toarray()
        scores_BxV += self._backoff_V
        return scores_BxV


def _counted(before: np.ndarray, after: np.ndarray, num_items: int) -> sparse.csr_matrix:
    """Return how often each item comes before each other one in these pairs, (V, V)."""
    shape = (num_items, num_items)
    return sparse.csr_matrix((np.ones(before.size), (before, after)), shape=shape)


def _fading(
    item_ids_BxL: np.ndarray, lengths_B: np.ndarray, num_items: int, newest: float = np.inf
) -> sparse.csr_matrix:
    """Return histories as rows over items: 1 / (1 + age) at each item, age 0 being the newest."""
    age_BxL = lengths_B[:, None] - 1 - np.arange(item_ids_BxL.shape[1])
    row, column = np.nonzero((age_BxL >= 0) & (age_BxL < newest))
    return sparse.csr_matrix(
        (1 / (1.0 + age_BxL[row, column]), (row, item_ids_BxL[row, column])),
        shape=(len(lengths_B), num_items),
    )


def _nearest(similarity_RxV: np.ndarray, first: int) -> sparse.csr_matrix:
    """Return the largest similarities of each row to other items."""
    rows = np.arange(len(similarity_RxV))
    similarity_RxV[rows, first + rows] = 0
    if similarity_RxV.shape[1] > _NEIGHBOURS:
        far = np.argpartition(-similarity_RxV, _NEIGHBOURS, axis=1)[:, _NEIGHBOURS:]
        np.put_along_axis(similarity_RxV, far, 0, axis=1)
    return sparse.csr_matrix(similarity_RxV)
