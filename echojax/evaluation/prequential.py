"""Prequential evaluation: every event of a part scored before it is taken in, in few passes.

A causal model's vector at a position is that of the history up to there, so one pass scores all
events in its window, where ranking examples one by one takes a pass for each. Parameters are not
updated; histories grow. Of a history longer than a window each event is scored from at least half a
window of its newest items (``passes``).

Dimension letters of this module: W passes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from echojax.data import Examples, Windows
from echojax.evaluation.ranking import TOP, Ranked, make_ranker, rank_examples

# (params, item_ids_BxL, lengths_B, *gaps_BxL) -> (B, L, D)
EncodeAll = Callable[..., Array]


class Passes(NamedTuple):
    """Windows that score each example once."""

    windows: Windows
    count_W: np.ndarray  # the examples that a pass scores, in order, at its last positions


def passes(examples: Examples) -> Passes:
    """Return passes over the histories of examples that lie together by user, in time order.

    The first pass of a user whose history fits into a window begins with its first item. Where it
    does not fit, a pass begins half a window before the first event that is not scored yet, or so
    that it ends at the last event, whichever is earlier: each event is scored from at least
    ``(max_len + 1) // 2`` of its newest items, or from all of them. An example that is its user's
    only one is scored from the newest ``max_len``, as it is by itself.
    """
    max_len, half = examples.max_len, (examples.max_len + 1) // 2
    begins = np.flatnonzero(np.append(True, examples.user_M[1:] != examples.user_M[:-1]))
    ends = np.append(begins[1:], len(examples))
    first, shown, count = [], [], []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        start, last = int(examples.start_M[begin]), int(examples.target_M[end - 1])
        while begin < end:
            target = int(examples.target_M[begin])
            opens = max(start, min(target - half, last - max_len))
            scored = min(end - begin, opens + max_len - target + 1)
            first.append(opens)
            shown.append(target + scored - 1 - opens)
            count.append(scored)
            begin += scored
    lengths_W = np.array(shown, np.int32)
    first_W = np.array(first, np.int64)
    windows = Windows(examples.items_T, first_W, lengths_W, max_len, gaps_T=examples.gaps_T)
    return Passes(windows, np.array(count))


@dataclass(frozen=True)
class _Encoded(Examples):
    """Examples that show the vector of their history in place of its items."""

    vectors_MxD: np.ndarray = field(kw_only=True)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return examples as arrays; see ``Examples.gather``."""
        return {
            "item_ids": self.vectors_MxD[indices],
            "lengths": self.lengths_M[indices].astype(np.int32),
            "targets": self.items_T[self.target_M[indices]],
        }


def rank_prequentially(
    encode_all: EncodeAll,
    items: Callable[[Any], Array],
    params: Any,
    examples: Examples,
    *,
    num_items: int,
    batch_size: int,
    exclude_seen: bool = False,
    top: int = TOP,
) -> Ranked:
    """Rank every example's target; memory grows with the examples, (M, D), not with users x items.

    Those of a user lie together, in time order. ``encode_all`` is of a causal model, in evaluation;
    ``items`` and the others are as in ``make_ranker``. A batch is of passes, or of histories.
    """
    encode = jax.jit(encode_all)
    windows, count_W = passes(examples)
    parts = []
    for begin in range(0, len(windows), batch_size):
        wanted = np.arange(begin, min(begin + batch_size, len(windows)))
        # The last batch is filled up, not compiled anew.
        shown = windows.gather(np.resize(wanted, batch_size))
        history = [shown[name] for name in ("item_ids", "lengths", "gaps") if name in shown]
        vectors_BxLxD = np.asarray(encode(params, *history))
        last_B, count_B = windows.lengths_M[wanted], count_W[wanted]
        scored_BxL = np.arange(windows.max_len) < last_B[:, None]
        scored_BxL &= np.arange(windows.max_len) >= (last_B - count_B)[:, None]
        parts.append(vectors_BxLxD[: wanted.size][scored_BxL])
    columns = (examples.items_T, examples.start_M, examples.target_M, examples.user_M)
    encoded = _Encoded(*columns, examples.max_len, vectors_MxD=np.concatenate(parts))
    ranker = make_ranker(
        lambda _, user_BxD, lengths_B: user_BxD, items, num_items=num_items, top=top
    )
    size = min(16 * batch_size, len(examples))
    return rank_examples(ranker, params, encoded, batch_size=size, exclude_seen=exclude_seen)
