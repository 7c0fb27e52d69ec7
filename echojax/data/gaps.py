"""The times between events as models read them: logarithms, in a unit of the data set.

A gap is ``log(1 + (t_l - t_{l-1}) / unit)``, and 0 at the first event. The unit is the tenth
percentile of the nonzero differences in training, so that it does not matter to a model whether
times are in seconds, milliseconds or days. Differences are computed before anything is rounded.
"""

import numpy as np

from echojax.data.dataset import Dataset
from echojax.data.splits import Split
from echojax.errors import UserError


def log_gaps(times_L: np.ndarray, unit: float) -> np.ndarray:
    """Return the log gaps of one history, float32 (L,), from its times in ascending order."""
    gaps_L = np.zeros(times_L.size, np.float32)
    gaps_L[1:] = np.log1p(_differences(times_L) / unit)
    return gaps_L


def with_gaps(dataset: Dataset, split: Split) -> Split:
    """Return a split whose examples have gaps; their unit is also among the split's facts."""
    if dataset.fingerprint.get("time") == "position":
        raise UserError(
            f"--time-gaps needs times and {dataset.name} has only positions; leave it out"
        )
    between_T = np.zeros(dataset.times_T.size)
    between_T[1:] = _differences(dataset.times_T)
    between_T[dataset.offsets[:-1]] = 0  # a user's first event has none before it
    of_training = between_T[split.train.target_M]
    if not (of_training > 0).any():
        raise UserError(
            f"--time-gaps: no training event of {dataset.name} is later than the event before it; "
            "leave it out"
        )
    unit = float(np.quantile(of_training[of_training > 0], 0.1, method="inverted_cdf"))
    gaps_T = np.log1p(between_T / unit).astype(np.float32)
    facts = split.facts | {"gap_unit": unit}
    return split.with_examples(gaps_T=gaps_T)._replace(facts=facts, gap_unit=unit)


def _differences(times_T: np.ndarray) -> np.ndarray:
    """Return each time minus the one before, float64; negative results have no meaning."""
    if times_T.dtype == np.int64:  # a difference may exceed the range of int64
        return np.diff(times_T.view(np.uint64)).astype(np.float64)
    return np.diff(times_T.astype(np.float64))
