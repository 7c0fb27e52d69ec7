"""Prequential evaluation: every event is scored before it is taken in, in few passes.

The vector of a causal model at a position is that of the history up to there. One pass therefore
scores all events in its window, whereas ranking examples one by one takes a pass for each.
Parameters are not updated, but histories grow. If a history is longer than the window, each event
is scored from at least half a window of the newest items (``passes``).

Dimension letters of this module: W passes.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from echojax.compilation import compiler_options
from echojax.data import Examples, Windows
from echojax.evaluation.ranking import TOP, Encode, Items, Ranked, make_ranker, rank_examples


def passes(examples: Examples) -> tuple[Windows, np.ndarray]:
    """Return windows that together score each example once, and how many each one scores.

    A pass scores the examples of its last positions. Examples must be grouped by user, in time
    order.

    If a history fits into a window, its only pass begins at the first item. Otherwise, a pass
    begins half a window before the first event that is not scored yet, or ends at the last event,
    whichever begins earlier. Each event is therefore scored from at least ``(max_len + 1) // 2`` of
    the newest items, or from all of them. A user's only example is scored from the newest
    ``max_len`` items, as in other evaluations.
    """
    max_len, half = examples.max_len, (examples.max_len + 1) // 2
    begins = np.flatnonzero(np.append(True, examples.user_M[1:] != examples.user_M[:-1]))
    ends = np.append(begins[1:], len(examples))
    found = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        start, last = int(examples.start_M[begin]), int(examples.target_M[end - 1])
        while begin < end:
            target = int(examples.target_M[begin])
            opens = max(start, min(target - half, last - max_len))
            scored = min(end - begin, opens + max_len - target + 1)
            found.append((opens, target + scored - 1 - opens, scored))
            begin += scored
    first_W, lengths_W, count_W = np.array(found).T
    lengths_W = lengths_W.astype(np.int32)
    windows = Windows(examples.items_T, first_W, lengths_W, max_len, gaps_T=examples.gaps_T)
    return windows, count_W


@dataclass(frozen=True)
class _Encoded(Examples):
    """Examples that give the vector of their history in place of its items."""

    vectors_MxD: np.ndarray = field(kw_only=True)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return examples as arrays; see ``Examples.gather``."""
        return {
            "item_ids": self.vectors_MxD[indices],
            "lengths": self.lengths_M[indices].astype(np.int32),
            "targets": self.items_T[self.target_M[indices]],
        }


def rank_prequentially(
    encode_all: Encode,
    items: Items,
    params: Any,
    examples: Examples,
    *,
    num_items: int,
    batch_size: int,
    exclude_seen: bool = False,
    top: int = TOP,
) -> Ranked:
    """Rank the target of every example; memory is (M, D), and does not grow with users x items.

    The examples of a user must be grouped, in time order. ``encode_all`` is that of a causal model
    without dropout, ``(params, item_ids_BxL, lengths_B, *gaps_BxL) -> (B, L, D)``; ``items`` and
    the other arguments are those of ``make_ranker``.
    """
    encode = jax.jit(encode_all, compiler_options=compiler_options())
    windows, count_W = passes(examples)
    parts = []
    for begin in range(0, len(windows), batch_size):
        wanted = np.arange(begin, min(begin + batch_size, len(windows)))
        # The last batch is padded, so that it need not be compiled again.
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
