"""The rule of ``ranking`` for dense scores, in NumPy: for baselines, in tiles of users."""

import numpy as np

from echojax.evaluation.ranking import TOP, Ranked


def rank_in_scores(
    scores_BxV: np.ndarray, targets_B: np.ndarray, excluded_BxS: np.ndarray | None = None
) -> Ranked:
    """Rank targets in dense scores.

    Args:
        scores_BxV: any float dtype, column 0 is padding. Not changed.
        targets_B: item numbers.
        excluded_BxS: items that are no candidates, padded with 0; a target stays one.
    """
    rows_B = np.arange(len(targets_B))
    out_BxV = np.isnan(scores_BxV)  # never recommended
    rival_BxV = ~(scores_BxV < scores_BxV[rows_B, targets_B][:, None])
    if excluded_BxS is not None:
        kept_B = out_BxV[rows_B, targets_B]
        out_BxV[rows_B[:, None], excluded_BxS] = True
        out_BxV[rows_B, targets_B] = kept_B
        rival_BxV[rows_B[:, None], excluded_BxS] = False
    out_BxV[:, 0] = True
    rival_BxV[:, 0] = False
    rival_BxV[rows_B, targets_B] = False
    rank_B = 1 + np.count_nonzero(rival_BxV, axis=1).astype(np.int32)
    return Ranked(rank_B, _top(np.where(out_BxV, -np.inf, scores_BxV)))


def _top(scores_BxV: np.ndarray) -> np.ndarray:
    """Return each row's TOP columns by falling score, then column; 0 for minus infinity.

    The scores are used up. Taking the first maximum TOP times is faster than np.partition and
    settles ties.
    """
    rows_B = np.arange(len(scores_BxV))
    top_BxK = np.zeros((rows_B.size, TOP), np.int32)
    for place in range(TOP):
        best_B = np.argmax(scores_BxV, axis=1)
        top_BxK[:, place] = np.where(scores_BxV[rows_B, best_B] > -np.inf, best_B, 0)
        scores_BxV[rows_B, best_B] = -np.inf
    return top_BxK
