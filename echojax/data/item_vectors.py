"""Given vectors of items, such as embeddings of their texts or images, by item id."""

import dataclasses
import re
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from echojax.arrays import load_arrays
from echojax.data.dataset import Dataset, arrays_sha256
from echojax.data.frames import column_names, column_of
from echojax.data.ids import as_ids
from echojax.data.layouts import columnar_format, item_column
from echojax.data.rows import Place
from echojax.data.splits import Split
from echojax.data.tables import no_panic_report
from echojax.errors import UserError, one_line
from echojax.files import is_special

# The first bytes of NumPy's files.
_NPY, _NPZ = b"\x93NUMPY", b"PK\x03\x04"
# Names that pandas gives to the numbers of rows.
_INDEX = re.compile(r"|index|Unnamed: \d+(\.\d+)?|__index_level_\d+__")


class ItemVectors(NamedTuple):
    """Vectors of N items."""

    ids_N: np.ndarray  # the items' ids, str
    vectors_NxF: np.ndarray  # float32
    trained: int = 0  # the first so many items occur in training; 0 if that is unknown

    @property
    def vectors_VxF(self) -> np.ndarray:  # noqa: N802
        """The vectors of items 0 to N; that of item 0, padding, is 0."""
        return np.pad(self.vectors_NxF, [(1, 0), (0, 0)])

    def same_as(self, other: "ItemVectors") -> bool:
        """Return whether the same items have the same vectors, in any order and on any scale."""
        ours, theirs = np.argsort(self.ids_N), np.argsort(other.ids_N)
        if not np.array_equal(self.ids_N[ours], other.ids_N[theirs]):
            return False
        one, two = (
            array / (float(np.linalg.norm(array)) or 1.0)
            for array in (self.vectors_NxF[ours], other.vectors_NxF[theirs])
        )
        return one.shape == two.shape and np.allclose(one, two, rtol=1e-5, atol=0)

    @property
    def sha256(self) -> str:
        """The SHA-256 of ids and vectors."""
        return arrays_sha256(self.ids_N, self.vectors_NxF)


def read_item_vectors(path: Path | str, *, item: str | None = None) -> ItemVectors:
    """Return the vectors in a file.

    A Parquet, Arrow, CSV or TSV file has a column of item ids, with the name ``item`` or a usual
    one, and either one column of lists of numbers, or only columns of numbers. A NumPy archive
    (``.npz``) has arrays ``ids`` and ``vectors``. For ``NAME.npy``, the ids are the lines of
    ``NAME.ids.txt`` in the same folder.
    """
    path, name = Path(path), f"--item-vectors {path}"
    if not path.is_file():
        what = "is no regular file" if path.exists() else "no such file"
        raise UserError(f"{name}: {what}; name a Parquet, CSV, .npz or .npy file")
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(_NPZ):
            return _from_arrays(name, load_arrays(path))
        if head.startswith(_NPY):
            return _from_npy(name, path)
        with no_panic_report():
            match columnar_format(head):
                case "parquet":
                    frame = pl.read_parquet(path)
                case "arrow":
                    frame = pl.read_ipc(path)
                case _:
                    frame = _read_text(path, item)
        return vectors_of_frame(frame, item=item, name=name)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or one_line(error)})") from None
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:
        raise UserError(f"{name}: cannot be read ({one_line(error)})") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{name}: is no table that can be read ({one_line(error):.200})") from None


def vectors_of_frame(
    frame: Any, *, item: str | None = None, name: str = "item_vectors"
) -> ItemVectors:
    """Return the vectors of a table, as described by ``read_item_vectors``, or of (ids, array).

    ``name`` is the name of the table in error messages.
    """
    if isinstance(frame, tuple | list) and len(frame) == 2:
        frame = {"item": frame[0], "vector": frame[1]}
    keys = column_names(frame, name, "(ids, array)")
    names = [str(key) for key in keys]
    if repeated := [one for one in names if names.count(one) > 1]:
        raise UserError(f"{name}: two columns are named {repeated[0]!r}; rename one of them")
    if (index := item_column(names, item)) is None:
        raise UserError(f"{name}: no item column among {', '.join(names)}; name it item_id")
    ids = frame[keys[index]]
    ids = ids if isinstance(ids, pl.Series) else column_of(frame, keys[index])
    place = Place(name, range(ids.len()), "row")
    values = {str(key): _numbers(frame[key]) for key in keys if key != keys[index]}
    lists = [column for column, array in values.items() if array.ndim == 2]
    if len(lists) > 1:
        raise UserError(f"{name}: columns {', '.join(lists)} all hold lists; leave one of them")
    if lists:
        vectors = values[lists[0]]
    else:
        for column, array in values.items():
            if _INDEX.fullmatch(column) or item_column([column], None) is not None:
                raise UserError(
                    f"{name}: column {column!r} looks like numbers of rows or other ids, not like "
                    "part of a vector; leave it out"
                )
            if array.ndim != 1 or array.dtype.kind not in "iuf":
                raise UserError(
                    f"{name}: column {column!r} holds no numbers, nor lists of one length; leave "
                    "it out, or mend it"
                )
            if len(array) != ids.len():
                raise UserError(f"{name}: {ids.len():,} ids, but {len(array):,} of {column!r}")
        vectors = np.column_stack([*values.values()]) if values else np.empty((ids.len(), 0))
    return _checked(name, as_ids(ids, place).to_numpy().astype(str), vectors)


def _numbers(values: Any) -> np.ndarray:
    """Return a column as an array; (N, F) if it holds lists of F numbers each.

    Numbers that are masked are NaN.
    """
    if np.ma.isMaskedArray(values) and values.dtype.kind in "iuf":
        values = np.ma.filled(values.astype(np.float64), np.nan)
    try:
        array = np.asarray(values)
    except ValueError:  # lists of several lengths
        return np.empty(())
    if array.dtype.kind == "O" and array.ndim == 1 and array.size:
        lists = [np.asarray(one) for one in array]
        sizes = {one.shape for one in lists}
        if len(sizes) == 1 and lists[0].ndim == 1 and all(one.dtype.kind in "iuf" for one in lists):
            return np.stack(lists)
    return array


def _read_text(path: Path, item: str | None) -> pl.DataFrame:
    separator = "\t" if path.suffix == ".tsv" else ","
    names = pl.read_csv(path, separator=separator, n_rows=0).columns
    index = item_column(names, item)
    ids = {} if index is None else {names[index]: pl.String}
    return pl.read_csv(path, separator=separator, schema_overrides=ids, infer_schema_length=None)


def _from_arrays(name: str, arrays: dict[str, np.ndarray]) -> ItemVectors:
    if not arrays.keys() >= {"ids", "vectors"} or arrays["ids"].ndim != 1:
        raise UserError(f"{name}: needs the arrays 'ids' (N,) and 'vectors' (N, F)")
    if (kind := arrays["ids"].dtype).kind not in "Uiuf":
        raise UserError(f"{name}: the array 'ids' holds {kind}; text or whole numbers wanted")
    ids = as_ids(column_of(arrays, "ids"), Place(name, range(len(arrays["ids"])), "row"))
    return _checked(name, ids.to_numpy().astype(str), arrays["vectors"])


def _from_npy(name: str, path: Path) -> ItemVectors:
    vectors, beside = np.load(path, mmap_mode="r", allow_pickle=False), path.with_suffix(".ids.txt")
    if not beside.is_file() or is_special(beside):
        raise UserError(f"{name}: {beside} is missing; write the id of each row there, one a line")
    lines = beside.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    return _checked(name, np.array([line.strip(" \t\r") for line in lines]), vectors)


def _checked(name: str, ids_N: np.ndarray, vectors: np.ndarray) -> ItemVectors:
    if vectors.ndim != 2 or not vectors.size or vectors.dtype.kind not in "iuf":
        shape = f"{vectors.dtype} of shape {vectors.shape}"
        raise UserError(f"{name}: vectors are {shape}; numbers of shape (items, size) wanted")
    if len(ids_N) != len(vectors):
        raise UserError(f"{name}: {len(ids_N):,} ids of {len(vectors):,} vectors; give one each")
    if (ids_N == "").any():
        row = int(np.argmax(ids_N == "")) + 1
        raise UserError(f"{name}: row {row:,} has no item id; give each vector its item")
    distinct, count = np.unique(ids_N, return_counts=True)
    if (repeated := distinct[count > 1]).size:
        raise UserError(
            f"{name}: {repeated.size:,} ids come more than once, such as {str(repeated[0])!r}; "
            "leave one vector of each"
        )
    with np.errstate(over="ignore"):
        vectors_NxF = np.array(vectors, np.float32)
    if not (finite_N := np.isfinite(vectors_NxF).all(axis=1)).all():
        bad = ids_N[np.argmin(finite_N)]
        raise UserError(
            f"{name}: {np.sum(~finite_N):,} vectors have NaN or infinite numbers, such as that of "
            f"{str(bad)!r}; mend them or leave them out"
        )
    return ItemVectors(ids_N, vectors_NxF)


def load_kept(path: Path) -> ItemVectors:
    """Return the vectors that are stored in a run folder."""
    try:
        arrays = load_arrays(path)
        kept = _from_arrays(str(path), arrays)
        return kept._replace(trained=int(arrays["trained"]))
    except KeyError:
        raise UserError(f"{path} lacks the array 'trained'; restore it from a copy") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from a copy") from None


def with_item_vectors(
    dataset: Dataset, split: Split, counts_V: np.ndarray, given: ItemVectors, name: str
) -> tuple[Dataset, Split]:
    """Return a data set with vectors, and its split; items of training get the first numbers.

    Items with a vector but without events are added to the item set. Vectors are scaled so that
    those of the items in training have a mean squared length of 1, unless they were read from a run
    folder, where they are scaled already. ``counts_V`` are the events of each item in training;
    ``name`` is the name of the vectors in error messages.
    """
    row_of = {item: row for row, item in enumerate(given.ids_N.tolist())}
    ids = dataset.item_ids[1:].tolist()
    if missing := [item for item in ids if item not in row_of]:
        raise UserError(
            f"{name}: {len(missing):,} of {len(ids):,} items of the data have no vector, such as "
            f"{missing[0]!r} (its own ids are such as {next(iter(row_of))!r}); add them"
        )
    order = np.append(0, 1 + np.argsort(counts_V[1:] == 0, kind="stable"))
    number_V = np.argsort(order).astype(np.int32)
    known = set(ids)
    more = [item for item in row_of if item not in known]
    item_ids = np.array(["", *dataset.item_ids[order[1:]].tolist(), *more])
    rows = [row_of[item] for item in item_ids[1:].tolist()]
    vectors_NxF, trained = given.vectors_NxF[rows], int(np.count_nonzero(counts_V))
    if not given.trained:  # Adam's steps of the projection have a size of their own
        squares_N = np.square(vectors_NxF[:trained], dtype=np.float64).sum(axis=1)
        vectors_NxF /= np.float32(np.sqrt(squares_N.mean()) or 1)
    kept = ItemVectors(item_ids[1:], vectors_NxF, trained)
    facts = {
        "size": vectors_NxF.shape[1],
        "items_in_training": kept.trained,
        "items_without_events": len(more),
        "sha256": kept.sha256,
    }
    fingerprint = {**dataset.fingerprint, "items": len(item_ids) - 1, "item_vectors": facts}
    if more:  # ranks among more items differ from those of the data alone
        fingerprint["sha256"] = arrays_sha256(np.array([fingerprint["sha256"], *more]))
    dataset = dataclasses.replace(
        dataset,
        items_T=number_V[dataset.items_T],
        item_ids=item_ids,
        fingerprint=fingerprint,
        optimum=None,  # it refers to the items by their former numbers
        item_vectors=kept,
    )
    return dataset, split.with_examples(items_T=number_V[split.train.items_T])
