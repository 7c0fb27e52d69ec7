"""Intervals over users, by the bootstrap."""

import numpy as np

_CHUNK = 2**22  # resampling weights held at once


def bootstrap_intervals(
    values_MxF: np.ndarray, user_M: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Return 95 % percentile intervals of the means over examples, (F, 2).

    Users are drawn with replacement, each with all its examples (a cluster bootstrap): where
    users have one example each this is the ordinary one.

    Args:
        values_MxF: one row an example, one column a metric.
        user_M: the example's user.
        resamples: how often users are drawn.
        seed: of the draws.
    """
    means = _resampled_means(values_MxF, user_M, resamples, seed)
    return np.quantile(means, [0.025, 0.975], axis=0).T


def paired_difference(
    ours_M: np.ndarray, theirs_M: np.ndarray, user_M: np.ndarray, *, resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Compare two models on the same examples.

    Returns:
        ``difference`` of the means, its 95 % interval ``low`` and ``high`` by the bootstrap over
        users, and ``p``, two-sided, of a permutation test that swaps the two models' results of a
        user at random.
    """
    gain_M = np.asarray(ours_M, np.float64) - theirs_M
    low, high = bootstrap_intervals(gain_M[:, None], user_M, resamples=resamples, seed=seed)[0]
    sums_U, _ = _per_user(gain_M[:, None], user_M)
    observed = abs(sums_U.sum())
    rng, extreme, done = np.random.default_rng(seed), 0, 0
    while done < resamples:
        rows = min(resamples - done, max(1, _CHUNK // len(sums_U)))
        signs = rng.integers(0, 2, (rows, len(sums_U)), np.int8) * np.float32(2) - np.float32(1)
        # Rounding must not make a relabelling that is the observed one look smaller.
        extreme += int(np.sum(np.abs(signs @ sums_U[:, 0]) >= observed * (1 - 1e-6)))
        done += rows
    return {
        "difference": float(gain_M.mean()),
        "low": float(low),
        "high": float(high),
        "p": (extreme + 1) / (resamples + 1),
    }


def _resampled_means(
    values_MxF: np.ndarray, user_M: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Return the mean of each resample, (resamples, F)."""
    sums_UxF, count_U = _per_user(values_MxF, user_M)
    columns = np.column_stack([sums_UxF, count_U])
    rng, users, means = np.random.default_rng(seed), len(count_U), []
    chunk = max(1, _CHUNK // users)
    for first in range(0, resamples, chunk):
        rows = min(chunk, resamples - first)
        drawn = rng.integers(0, users, (rows, users)) + np.arange(rows)[:, None] * users
        times = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        totals = times.astype(np.float64) @ columns
        means.append(totals[:, :-1] / totals[:, -1:])
    return np.concatenate(means)


def _per_user(values_MxF: np.ndarray, user_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each user's sum of values, (U, F), and number of examples, (U,)."""
    _, place_M = np.unique(user_M, return_inverse=True)
    count_U = np.bincount(place_M)
    columns = np.asarray(values_MxF, np.float64).T
    sums = [np.bincount(place_M, weights=column, minlength=count_U.size) for column in columns]
    return np.column_stack(sums), count_U
