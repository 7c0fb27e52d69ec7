"""Intervals and comparisons over users, by the bootstrap and by permutation tests.

Users are of few different kinds: if each has one example, only its rank up to the largest cutoff
matters. To draw U users with replacement, it is enough to draw the number of users of each *kind*,
which is one multinomial draw. The cost of a resample is then the number of kinds, not of users, and
the result is exactly that of the ordinary bootstrap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK = 2**22  # how many counts of resamples are held at once


def bootstrap_intervals(
    values_MxF: np.ndarray, user_M: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Return 95 % percentile intervals of the means over examples, (F, 2) float64.

    A row is an example, and a column is a metric. Users are drawn with replacement, each with all
    examples (a cluster bootstrap); if each has one example, this is the ordinary bootstrap.
    """
    means = resampled_means(values_MxF, user_M, resamples=resamples, seed=seed)
    return np.quantile(means, [0.025, 0.975], axis=0).T


def paired_difference(
    ours_M: np.ndarray,
    theirs_M: np.ndarray,
    user_M: np.ndarray,
    *,
    resamples: int = 10_000,
) -> dict[str, float]:
    """Compare one metric of two models on the same examples.

    Returns the ``difference`` of the means (ours - theirs); ``low`` and ``high``, the ends of its
    95 % interval by the bootstrap over users; and ``p`` of a two-sided permutation test, which
    swaps the results of the two models for random users.
    """
    gain_M = np.asarray(ours_M, np.float64) - theirs_M
    low, high = bootstrap_intervals(gain_M[:, None], user_M, resamples=resamples)[0]
    sums_Ux1, _ = _per_user(gain_M[:, None], user_M)
    # Swapping changes the sign of a user's gain, so users differ only in its absolute value.
    gain_G, users_G = np.unique(np.abs(sums_Ux1), return_counts=True)
    rng = np.random.default_rng(0)
    totals = np.concatenate(
        [
            np.abs((2 * rng.binomial(users_G, 0.5, (n, gain_G.size)) - users_G) @ gain_G)
            for n in _chunks(resamples, gain_G.size)
        ]
    )
    # Rounding errors must not make a swap that equals the observed result appear smaller, nor a sum
    # of 0 appear to be a result.
    observed = abs(sums_Ux1.sum()) * (1 - 1e-9) - np.abs(sums_Ux1).sum() * 1e-13
    extreme = int(np.sum(totals >= observed))
    return {
        "difference": float(gain_M.mean()),
        "low": float(low),
        "high": float(high),
        "p": (extreme + 1) / (resamples + 1),
    }


def holm(p_N: Sequence[float]) -> list[float]:
    """Return p values corrected for testing N hypotheses at once (Holm 1979), in the same order.

    The smallest is multiplied by N, the next by N - 1 and so on; each is at least the one before,
    and at most 1. If all hypotheses below 0.05 are rejected, the probability of any false rejection
    is at most 0.05, however the tests depend on each other.
    """
    order = np.argsort(p_N, kind="stable")
    steps = np.asarray(p_N, np.float64)[order] * np.arange(len(p_N), 0, -1)
    corrected = np.empty(len(p_N))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected.tolist()


@dataclass(frozen=True)
class Estimate:
    """A metric over seeds."""

    mean: float  # over examples and seeds
    # The 95 % interval by the bootstrap over users, of each user's mean over seeds; ``None`` if the
    # ranks are not kept.
    interval: tuple[float, float] | None = None
    # The standard deviation between seeds (n - 1); ``None`` for a single seed.
    spread: float | None = None


def seed_estimates(values_SxMxF: Sequence[np.ndarray], user_M: np.ndarray) -> list[Estimate]:
    """Return the estimate of each metric, from each seed's values of the same examples."""
    intervals = bootstrap_intervals(np.mean(values_SxMxF, axis=0), user_M).tolist()
    of_seeds_FxS = np.array([values_MxF.mean(axis=0) for values_MxF in values_SxMxF]).T
    return [
        Estimate(float(of_seeds_S.mean()), (low, high), spread_of(of_seeds_S))
        for of_seeds_S, (low, high) in zip(of_seeds_FxS, intervals, strict=True)
    ]


def spread_of(values_S: np.ndarray) -> float | None:
    """Return the standard deviation between seeds (n - 1); ``None`` for a single seed."""
    return float(values_S.std(ddof=1)) if len(values_S) > 1 else None


def resampled_means(
    values_MxF: np.ndarray, user_M: np.ndarray, *, resamples: int, seed: int
) -> np.ndarray:
    """Return the means over examples of each bootstrap resample of users, (resamples, F)."""
    sums_UxF, count_U = _per_user(values_MxF, user_M)
    kinds, users = _distinct(np.column_stack([sums_UxF, count_U]))
    share, rng = users / users.sum(), np.random.default_rng(seed)
    totals = np.concatenate(
        [rng.multinomial(users.sum(), share, n) @ kinds for n in _chunks(resamples, users.size)]
    )
    return totals[:, :-1] / totals[:, -1:]


def _chunks(resamples: int, kinds: int) -> list[int]:
    """Split the number of resamples into chunks that need little memory."""
    most = max(1, _CHUNK // kinds)
    return [min(most, resamples - first) for first in range(0, resamples, most)]


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows and how often each occurs; np.unique takes 16 times as long."""
    rows = rows[np.lexsort(rows.T)]
    starts = np.flatnonzero(np.append(True, np.any(rows[1:] != rows[:-1], axis=1)))
    return rows[starts], np.diff(starts, append=len(rows))


def _per_user(values_MxF: np.ndarray, user_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each user's sum of values, (U, F), and number of examples, (U,).

    The sums are rounded to 12 digits after the point. The last bits of a logarithm depend on the
    processor, and what is drawn for the users depends on which of them are equal.
    """
    _, place_M, count_U = np.unique(user_M, return_inverse=True, return_counts=True)
    columns = np.asarray(values_MxF, np.float64).T
    sums = [np.bincount(place_M, weights=column, minlength=count_U.size) for column in columns]
    return np.round(np.column_stack(sums), 12), count_U
