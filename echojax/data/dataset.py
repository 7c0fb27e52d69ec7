"""From events to a data set: duplicates, k-core, order, numbering, and a fingerprint."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from echojax.data.frames import is_given, read_frame
from echojax.data.ids import ids_by_number, ids_in_order
from echojax.data.layouts import Columns
from echojax.data.order import as_float32, random_seed, rows_in_time_order, time_order
from echojax.errors import UserError
from echojax.flags import Duplicates, MissingIds, TimePrecision
from echojax.given import given_choice, given_number, given_text

if TYPE_CHECKING:
    from echojax.data.examples import Examples
    from echojax.data.item_vectors import ItemVectors

log = logging.getLogger(__name__)
Predictor = Callable[["Examples", np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Preparation:
    """How events become a data set: which of them are kept, and how those of a user are ordered.

    Args:
        k_core: Keep users and items with at least this many events each, repeated until nothing
            changes; 0 or 1 keeps all.
        duplicates: Of the events of a user with the same item, keep all (``keep``), as RecBole
            does, or only the ``first`` or the ``last``.
        time_precision: ``exact``, or ``float32``, to which RecBole rounds times.
        ties: The order of a user's events that have the same time: ``file``, that of the rows, or
            ``random:SEED``.

    Raises:
        UserError: A value is none of these.
    """

    k_core: int = 5
    duplicates: str = "keep"
    time_precision: str = "exact"
    ties: str = "file"

    def __post_init__(self) -> None:
        given_number("--k-core", self.k_core, least=0)
        given_choice("--duplicates", self.duplicates, Duplicates)
        given_choice("--time-precision", self.time_precision, TimePrecision)
        random_seed(self.ties)

    @classmethod
    def of(cls, flags: Any) -> "Preparation":
        """Return the preparation that the flags of a command, or a configuration, describe."""
        return cls(**{one.name: getattr(flags, one.name) for one in fields(cls)})


@dataclass(frozen=True)
class Dataset:
    """The histories of all users; the items of user u are ``items_T[offsets[u]:offsets[u+1]]``."""

    name: str  # what the data is called in results
    items_T: np.ndarray  # int32 item numbers 1..V-1: user after user, each in time order
    # The times of the events in the unit of the source: float64, or int64 if float64 is not exact.
    # If the source has no times, these are positions in the history.
    times_T: np.ndarray
    offsets: np.ndarray  # int64 (U+1,)
    user_ids: np.ndarray  # str (U,), the ids of the source
    item_ids: np.ndarray  # str (V,), the ids of the source; number 0 is padding, with the id ""
    fingerprint: dict[str, Any]  # identifies the data in results; JSON-able
    # For generated data, the best possible predictor: from examples and indices, it returns the
    # exact distribution of the next item, float64 (B, V).
    optimum: Predictor | None = field(default=None, compare=False)
    titles: Mapping[str, str] = field(default_factory=dict, compare=False)  # of items, by id
    # Vectors of items 1..V-1. With them, the items that occur in training have the first numbers.
    item_vectors: "ItemVectors | None" = field(default=None, compare=False)

    @property
    def num_items(self) -> int:
        """The number of items V, with padding."""
        return len(self.item_ids)

    @property
    def num_learned(self) -> int:
        """The number of items that have parameters of their own, with padding.

        These are all items; with item vectors, only the items that occur in training.
        """
        return self.num_items if self.item_vectors is None else 1 + self.item_vectors.trained

    @property
    def num_users(self) -> int:
        """The number of users U."""
        return len(self.offsets) - 1

    @property
    def users_T(self) -> np.ndarray:  # noqa: N802
        """The user number of each event, int32 (T,)."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), np.diff(self.offsets))

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        titles: str | Mapping[Any, str] | None = None,
        k_core: int = 5,
        duplicates: str = "keep",
        missing_ids: MissingIds = "refuse",
        time_format: str | None = None,
        time_precision: str = "exact",
        ties: str = "file",
        name: str = "frame",
    ) -> "Dataset":
        """Prepare events in memory in the same way as the events of a file.

        Ids become text, as in a CSV of the frame. Whole numbers that are floats only because some
        are missing are written without a decimal point.

        Args:
            frame: Anything whose columns ``numpy.asarray(frame[name])`` can read: a frame of pandas
                or polars, an Arrow table, a mapping of arrays; or two or three arrays, of users,
                items and times.
            user: The column of users. ``None`` finds it by its name, as in files.
            item: The column of items. ``None`` finds it by its name, as in files.
            time: The column of times, numbers or dates. ``None`` finds it by its name and values;
                if there is none, the order of the rows is the order of the events.
            titles: The column of the items' titles, or a mapping of item ids to titles.
            k_core: See ``Preparation``, as for ``duplicates``, ``time_precision`` and ``ties``.
            duplicates: See ``Preparation``.
            missing_ids: What to do with rows whose user or item is missing, NA, NULL or the like:
                ``refuse``, ``drop`` or ``keep``.
            time_format: The format of dates in text, as for strftime; ``None`` is ISO 8601.
            time_precision: See ``Preparation``.
            ties: See ``Preparation``.
            name: What the data is called in results.

        Raises:
            UserError: A column is missing, or holds values that are no ids or no times.
        """
        name = given_text("name", name)
        preparation = Preparation(k_core, duplicates, time_precision, ties)
        if time_format is not None:
            given_text("--time-format", time_format)
        # The names of columns in a frame of pandas can be numbers.
        user, item, time = (None if one is None else str(one) for one in (user, item, time))
        columns = Columns(user, item, time, time_format=time_format, missing=missing_ids)
        column = None if titles is None or isinstance(titles, Mapping) else str(titles)
        events, titled = read_frame(frame, columns, column)
        if isinstance(titles, Mapping):
            titled = {str(key): str(title) for key, title in titles.items() if is_given(title)}
        for note in events.notes:
            log.info("%s", note)
        dataset = prepare(name, events.frame, preparation)
        log_order(dataset)
        dataset.fingerprint["source"] = {"format": str(events.layout), "notes": list(events.notes)}
        known = {item: titled[item] for item in dataset.item_ids.tolist() if item in titled}
        return replace(dataset, titles=known)


def log_order(dataset: Dataset) -> None:
    """Log it if times are rounded but the rows are sorted, so that rounding changes no order."""
    order = dataset.fingerprint.get("order", {})
    if order.get("time_precision") == "float32" and order["rows_in_time_order"]:
        log.info(
            "%s: each user's rows are in the order of exact times already, so they are not known "
            "to be the publisher's; events are not in the order that RecBole has them in",
            dataset.name,
        )


def prepare(name: str, events: pl.DataFrame, preparation: Preparation = Preparation()) -> Dataset:
    """Order events by user and time, drop those outside the k-core, and number users and items.

    The frame has columns ``user`` and ``item``, and ``time`` (numbers) unless the order of its rows
    is the order of the events. Ids are numbered by first appearance, those of an Enum in its order.
    """
    k_core, duplicates = int(preparation.k_core), preparation.duplicates
    users_T, user_ids = _coded(events["user"])
    items_T, item_ids = _coded(events["item"])
    times_T = events["time"].to_numpy() if "time" in events.columns else None
    facts = _order_facts(name, users_T, times_T, preparation)
    if times_T is not None and preparation.time_precision == "float32":
        times_T = as_float32(times_T)
    order = time_order(users_T, times_T, random_seed(preparation.ties))
    users_T, items_T = users_T[order], items_T[order]
    positions_T = _positions(users_T)
    positional = times_T is None or bool(np.array_equal(times_T[order], positions_T))
    times_T = positions_T if times_T is None else times_T[order]
    repeated = repeated_pairs(users_T, items_T, duplicates)
    raw = {"users": len(user_ids), "items": len(item_ids), "interactions": int(users_T.size)}
    facts |= {
        "raw": raw,
        "k_core": k_core,
        "duplicates": {"pairs": int(repeated.sum()), "handling": duplicates},
        "time": "position" if positional else "source",
    }
    keep = np.ones(users_T.size, bool) if duplicates == "keep" else ~repeated
    keep &= in_core(users_T, items_T, keep, k_core)
    user_numbers, users_T = _renumbered(users_T[keep])
    item_numbers, items_T = _renumbered(items_T[keep])
    if min(raw["users"], raw["items"]) < 2:
        raise UserError(
            f"{name}: at least two users and two items are needed, not {raw['users']} and "
            f"{raw['items']}"
        )
    if user_numbers.size < 2 or item_numbers.size < 2:
        raise UserError(
            f"{name}: {user_numbers.size} users and {item_numbers.size} items are left of "
            f"{raw['users']} users, {raw['items']} items and {raw['interactions']} interactions "
            f"after --k-core {k_core}; at least two of each are needed, try a smaller --k-core"
        )
    dataset = Dataset(
        name=name,
        items_T=(items_T + 1).astype(np.int32),
        times_T=times_T[keep],
        offsets=np.concatenate([[0], np.cumsum(np.bincount(users_T))]),
        user_ids=user_ids[user_numbers],
        item_ids=np.concatenate([[""], item_ids[item_numbers]]),
        fingerprint={},
    )
    return replace(dataset, fingerprint=_computed_facts(dataset) | facts)


def _order_facts(
    name: str, users_T: np.ndarray, times_T: np.ndarray | None, preparation: Preparation
) -> dict[str, Any]:
    """Return the part of the fingerprint that describes an order other than the default."""
    time_precision, ties = preparation.time_precision, preparation.ties
    if (time_precision, ties) == ("exact", "file"):
        return {}
    if times_T is None:
        flag = f"--ties {ties}" if time_precision == "exact" else "--time-precision float32"
        raise UserError(f"{name}: {flag} is about times, and there are none; leave it out")
    in_order = rows_in_time_order(users_T, times_T)
    order = {"time_precision": time_precision, "ties": ties, "rows_in_time_order": in_order}
    return {"order": order}


def _coded(column: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each row's id, from 0, and the ids by number."""
    if column.dtype != pl.Enum:
        column = ids_in_order(column)
    ids = np.array(ids_by_number(column).to_list(), np.str_)
    return column.to_physical().cast(pl.UInt32).to_numpy().view(np.int32), ids


def _renumbered(codes_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes that occur, in order, and the index of each event's code among them."""
    occurs = np.bincount(codes_T) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs, dtype=np.int32) - 1)[codes_T]


def _positions(users_T: np.ndarray) -> np.ndarray:
    """Return each event's position in its user's history, float64; events are grouped by user."""
    first = np.flatnonzero(np.diff(users_T, prepend=-1))
    return np.arange(users_T.size) - np.repeat(
        first.astype(np.float64), np.diff(np.append(first, users_T.size))
    )


def repeated_pairs(users_T: np.ndarray, items_T: np.ndarray, handling: str) -> np.ndarray:
    """Return which events repeat a (user, item) pair: all but the first one, or the last one."""
    pairs = users_T.astype(np.int64) * (int(items_T.max()) + 1) + items_T
    if handling == "last":
        pairs = pairs[::-1]
    order = np.argsort(pairs, kind="stable")
    repeated = np.zeros(pairs.size, bool)
    repeated[order[1:]] = pairs[order[1:]] == pairs[order[:-1]]
    return repeated[::-1] if handling == "last" else repeated


def in_core(users_T: np.ndarray, items_T: np.ndarray, keep: np.ndarray, k: int) -> np.ndarray:
    """Return which of the kept events are in the k-core of their user-item graph.

    The k-core is unique: users and items with fewer than ``k`` events are removed until all have
    ``k`` or more.
    """
    keep, kept = keep.copy(), -1
    while kept != (kept := int(keep.sum())):
        for codes in (users_T, items_T):
            counts = np.bincount(codes[keep], minlength=int(codes.max()) + 1)
            keep &= counts[codes] >= k
    return keep


def _computed_facts(dataset: Dataset) -> dict[str, Any]:
    """Return the part of the fingerprint that is computed from the prepared arrays.

    ``tie_share`` is the share of adjacent events of a user with equal times.
    """
    items_T, times_T, users_T = dataset.items_T, dataset.times_T, dataset.users_T
    same_user = users_T[1:] == users_T[:-1]
    ties = same_user & (times_T[1:] == times_T[:-1])
    lengths = np.diff(dataset.offsets)
    quantiles = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 0.95, 1], method="lower")
    names = ("min", "25", "50", "75", "95", "max")
    ids = dataset.user_ids, dataset.item_ids
    return {
        "users": dataset.num_users,
        "items": dataset.num_items - 1,
        "interactions": items_T.size,
        "history_length": dict(zip(names, quantiles.tolist(), strict=True)),
        "tie_share": float(ties.sum() / max(1, same_user.sum())),
        "sha256": arrays_sha256(items_T, times_T, dataset.offsets, *ids),
    }


def arrays_sha256(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of arrays: numbers as little-endian bytes, strings as UTF-8 lines."""
    digest = hashlib.sha256()
    for array in arrays:
        if array.dtype.kind == "U":
            digest.update("\n".join(array.tolist()).encode())
        else:
            digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
