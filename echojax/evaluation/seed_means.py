"""What several seeds of one configuration say together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echojax.evaluation.statistics import bootstrap_intervals


@dataclass(frozen=True)
class Estimate:
    """A metric over seeds.

    Attributes:
        mean: over examples and seeds.
        interval: 95 %, by the bootstrap over users of each user's mean over seeds; ``None`` where
            the ranks are not kept.
        spread: standard deviation between seeds (n - 1); ``None`` of a single one.
    """

    mean: float
    interval: tuple[float, float] | None = None
    spread: float | None = None


def seed_estimates(values_SxMxF: Sequence[np.ndarray], user_M: np.ndarray) -> list[Estimate]:
    """Return the estimate of each metric.

    Args:
        values_SxMxF: each seed's metrics of the same examples, one row an example.
        user_M: the example's user.
    """
    intervals = bootstrap_intervals(np.mean(values_SxMxF, axis=0), user_M).tolist()
    of_seeds_FxS = np.array([values_MxF.mean(axis=0) for values_MxF in values_SxMxF]).T
    return [
        Estimate(float(of_seeds_S.mean()), (low, high), spread_of(of_seeds_S))
        for of_seeds_S, (low, high) in zip(of_seeds_FxS, intervals, strict=True)
    ]


def spread_of(values_S: np.ndarray) -> float | None:
    """Return the standard deviation between seeds (n - 1); ``None`` of a single one."""
    return float(values_S.std(ddof=1)) if len(values_S) > 1 else None
