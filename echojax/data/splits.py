"""Splits of a data set into training, validation and test examples."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from echojax.data.dataset import Dataset
from echojax.data.examples import Examples
from echojax.errors import UserError


class Split(NamedTuple):
    """The examples of each part of a data set, and facts about the split."""

    train: Examples
    valid: Examples  # to choose the best epoch
    test: Examples
    facts: dict[str, object]  # JSON-able, for results
    gap_unit: float | None = None  # the unit of the examples' gaps, if they have gaps

    def with_examples(self, **changes: Any) -> "Split":
        """Return a split whose examples, in every part, have these fields changed."""
        parts = {
            name: dataclasses.replace(getattr(self, name), **changes)
            for name in ("train", "valid", "test")
        }
        return self._replace(**parts)


def leave_one_out(dataset: Dataset, max_len: int, name: str = "leave-one-out") -> Split:
    """Use every user's last item for testing, and the last but one for validation.

    The items before them, except the first one, are the training targets. All items of users with
    fewer than three events are used for training. ``name`` is that of the split of which this is a
    part.
    """
    position_T, length_T = _places(dataset)
    from_end_T = length_T - position_T
    long_T, has_history_T = length_T >= 3, position_T >= 1
    facts: dict[str, object] = {
        "split": name,
        "short_users": int((np.diff(dataset.offsets) < 3).sum()),
    }
    return _split(
        dataset,
        max_len,
        facts,
        train=has_history_T & (~long_T | (from_end_T > 2)),
        valid=long_T & (from_end_T == 2),
        test=long_T & (from_end_T == 1),
    )


def global_time_split(dataset: Dataset, max_len: int) -> Split:
    """Split all users' events at two points in time, after 80 % and 90 % of the events.

    A target is used for training if its time is before the first threshold, for validation if it is
    between the two, and for testing from the second on. Its history is all of the user's earlier
    events. Unlike with leave-one-out, no training target is later than any target of validation or
    testing.
    """
    if dataset.fingerprint.get("time") == "position":
        raise UserError(
            f"--split global-time needs times and {dataset.name} has only positions; "
            "use --split leave-one-out"
        )
    first, second = np.quantile(dataset.times_T, [0.8, 0.9], method="inverted_cdf")
    position_T, _ = _places(dataset)
    has_history_T, times_T = position_T >= 1, dataset.times_T
    facts: dict[str, object] = {
        "split": "global-time",
        "thresholds": [first.item(), second.item()],
        "cold_targets": int(((times_T >= first) & ~has_history_T).sum()),
    }
    return _split(
        dataset,
        max_len,
        facts,
        train=has_history_T & (times_T < first),
        valid=has_history_T & (times_T >= first) & (times_T < second),
        test=has_history_T & (times_T >= second),
    )


def cold_items_split(dataset: Dataset, max_len: int, share: float = 0.1, seed: int = 0) -> Split:
    """Leave one out, and also test items that do not occur in training.

    A random share of the items is drawn, and all their events are removed, so that training,
    validation and histories do not contain them. The remaining events are split by leave-one-out.
    In addition, each user's last event with one of the drawn items is a test target; its history is
    the user's remaining events before it.
    """
    items = dataset.num_items - 1
    rng = np.random.default_rng(seed)
    drawn = 1 + rng.choice(items, max(1, round(share * items)), replace=False)
    cold_T = np.isin(dataset.items_T, drawn)
    user_T = dataset.users_T
    lengths_U = np.bincount(user_T[~cold_T], minlength=dataset.num_users)
    remaining = dataclasses.replace(
        dataset,
        items_T=dataset.items_T[~cold_T],
        offsets=np.concatenate([[0], np.cumsum(lengths_U)]),
    )
    split = leave_one_out(remaining, max_len, "cold-items")
    # The last cold event of each user and the warm events before it, user after user.
    place_T, last_U = np.arange(user_T.size), np.full(dataset.num_users, -1)
    np.maximum.at(last_U, user_T[cold_T], place_T[cold_T])
    shown_T = ~cold_T & (place_T < last_U[user_T])
    shown_U = np.bincount(user_T[shown_T], minlength=dataset.num_users)
    user_M = np.flatnonzero(shown_U).astype(np.int32)
    if not user_M.size:
        raise UserError(
            f"{dataset.name}: --split cold-items draws {drawn.size} items, which no user has met "
            "after others; more or longer histories are needed"
        )
    kept_T = shown_T | ((place_T == last_U[user_T]) & (shown_U[user_T] > 0))
    items_T = np.concatenate([remaining.items_T, dataset.items_T[kept_T]])
    target_M = remaining.items_T.size + np.cumsum(shown_U[user_M] + 1) - 1
    test = Examples(
        items_T,
        np.concatenate([split.test.start_M, target_M - shown_U[user_M]]),
        np.concatenate([split.test.target_M, target_M]),
        np.concatenate([split.test.user_M, user_M]),
        max_len,
    )
    facts = split.facts | {
        "cold_items": int(drawn.size),
        "cold_targets": int(user_M.size),
    }
    return split.with_examples(items_T=items_T)._replace(test=test, facts=facts)


def _places(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return each event's position in its history, and the history's length."""
    user_T = dataset.users_T
    position_T = np.arange(user_T.size) - dataset.offsets[user_T]
    return position_T, np.diff(dataset.offsets)[user_T]


def _split(
    dataset: Dataset, max_len: int, facts: dict[str, object], **targets: np.ndarray
) -> Split:
    """Return the examples of each part; its targets are given as a mask over all events."""
    if max_len < 1:
        raise UserError(f"--max-len {max_len}: must be at least 1")
    parts, user_T = {}, dataset.users_T
    for part, is_target_T in targets.items():
        target_M = np.flatnonzero(is_target_T)
        if target_M.size == 0:
            raise UserError(
                f"{dataset.name}: --split {facts['split']} leaves no {part} examples; "
                "more or longer histories are needed"
            )
        user_M = user_T[target_M]
        start_M = dataset.offsets[user_M]
        parts[part] = Examples(dataset.items_T, start_M, target_M, user_M, max_len)
    return Split(parts["train"], parts["valid"], parts["test"], facts)
