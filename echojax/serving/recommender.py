"""Recommendations by a trained model, in terms of the data's item ids."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.compilation import compiler_options
from echojax.errors import UserError
from echojax.evaluation.tiles import Top, top_k
from echojax.given import given_number, given_path, given_switch, given_truth
from echojax.models import SequenceModel
from echojax.models.heuristic import training_counts
from echojax.serving.inputs import Histories, check_gap_unit, model_inputs, padded, power_of_two
from echojax.serving.item_ids import ItemIds, check_list
from echojax.serving.trained import check_places, read_trained
from echojax.training.builders import read_run_data

# Item ids, oldest first; for a model that reads the times between events, (item id, time) pairs.
History = Sequence[object]
Filter = Callable[[str], bool]  # takes an item id; returns whether the item may be recommended

# The most item numbers to exclude in one batch, with padding: 16 MiB.
_MOST_EXCLUDED = 2**22
log = logging.getLogger(__name__)


class Recommendation(NamedTuple):
    """The answer to one history.

    Attributes:
        item_ids: The recommended items, best first; fewer than k if there are no more.
        scores: Their scores: logits of the model, counts of training interactions, or cosines.
        by: How the items were found: "model", "popularity" if the history has no known item, or
            "similarity".
        unknown: The number of items in the history that the model does not know; they are skipped.
    """

    item_ids: list[str]
    scores: list[float]
    by: str
    unknown: int


class _Known(NamedTuple):
    """A history as item numbers."""

    newest_L: np.ndarray  # the items that the model reads, int32, at most ``max_len``
    excluded_S: np.ndarray  # columns of the pool that must not be recommended, int32
    unknown: int  # the number of items that the model does not know
    gaps_L: np.ndarray | None  # log gaps of the newest items, float32, if the model reads them


class _Request(NamedTuple):
    """The options of a request, and its pool: the items that may be recommended."""

    number_C: np.ndarray  # the item numbers of the pool, int32, ascending; column 0 is padding
    column_V: np.ndarray  # the column of each item in the pool, int32; 0 if it is not in the pool
    # The vectors of the pool; a pool of some items is padded to a power of two.
    item_CxD: jax.Array
    k: int  # the number of items to recommend
    exclude_seen: bool  # do not recommend items of the history
    approx: float | None  # the recall of the search; ``None`` is exact


class Recommender:
    """Recommends next items.

    Args:
        model: A trained model.
        item_ids_V: The data's ids by item number, str (V,); number 0 is padding.
        popularity: Returns the number of training interactions of each item, (V,). It is called
            for the first history without a known item; with ``None``, such a history is an error.
        batch_size: How many histories are computed at once; ``None``: 64 on a CPU, 1024 elsewhere.
        step: The training step of the model's parameters, if it is known.
        gap_unit: The unit of gaps, for a model that reads the times between events
            (``echojax.data.gaps``).
    """

    def __init__(
        self,
        model: SequenceModel,
        item_ids_V: np.ndarray,
        *,
        popularity: Callable[[], np.ndarray] | None = None,
        batch_size: int | None = None,
        step: int | None = None,
        gap_unit: float | None = None,
    ):
        check_gap_unit(model, gap_unit)
        self.item_ids, self.gap_unit = ItemIds(item_ids_V), gap_unit
        self.max_len = model.max_len
        usual = 64 if jax.default_backend() == "cpu" else 1024
        self.batch_size = given_number("batch_size", usual if batch_size is None else batch_size)
        self.step = step
        self.held: object = None  # stays as long as this does: what the popularity is read from
        self._popularity = popularity
        self._item_VxD = jnp.asarray(model.output_embeddings())
        graphdef, params = nnx.split(model)

        def encode(params: nnx.State, of: Histories) -> jax.Array:
            model = nnx.merge(graphdef, params)
            return model.encode(of.item_ids_BxL, of.lengths_B, gaps_BxL=of.gaps_BxL)

        def score(user_BxD: jax.Array, item_VxD: jax.Array, items_C: jax.Array) -> jax.Array:
            user_D = user_BxD[0].astype(jnp.float32)
            item_CxD = item_VxD[items_C].astype(jnp.float32)
            return jnp.matmul(item_CxD, user_D, precision=jax.lax.Precision.HIGHEST)

        self._params = jax.tree.map(jnp.asarray, params)  # NumPy arrays would be moved every time
        # Apart, as the model's is long to compile and needs no other for another k or pool.
        self._encode = jax.jit(encode, compiler_options=compiler_options())
        self._score = jax.jit(score)
        self._search = jax.jit(top_k, static_argnames=("k", "recall"))

    @classmethod
    def load(
        cls,
        run_dir: "str | os.PathLike[str]",
        *,
        data_dir: str | None = None,
        data_path: str | None = None,
        batch_size: int | None = None,
    ) -> "Recommender":
        """Return the recommender of a run's best checkpoint.

        Args:
            run_dir: The run folder.
            data_dir: The folder that holds the data now; the data is read for popularity only.
            data_path: The file that the run was trained on, if it has been moved.
            batch_size: How many histories are computed at once.

        Raises:
            UserError: The folder holds no run, model or whole checkpoint, or the data is not where
                the arguments say.
        """
        check_places(data_dir, data_path)
        folder = given_path("the run folder", run_dir)
        run = read_trained(folder)
        # The data may be read after the process has changed its working folder.
        here, places = folder.absolute(), {"data_dir": data_dir, "data_path": data_path}
        places = {name: place and os.path.abspath(place) for name, place in places.items()}

        def popularity() -> np.ndarray:
            dataset, split = read_run_data(here, run.config, **places)
            return training_counts(split.train, dataset.num_items)

        return cls(
            run.model,
            run.item_ids,
            popularity=popularity,
            batch_size=batch_size,
            step=run.step,
            gap_unit=run.gap_unit,
        )

    def recommend(
        self, histories: Sequence[History], k: int = 10, **options: Any
    ) -> list[Recommendation]:
        """Return the k best next items of each history; see ``recommend_each`` for options."""
        return list(self.recommend_each(histories, k, **options))

    def recommend_each(
        self,
        histories: Iterable[History],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Iterable[object] | None = None,
        filter: Filter | None = None,
        approx: float | None = None,
    ) -> Iterator[Recommendation]:
        """Yield the k best next items of one history after the other, in bounded memory.

        A history without an item that the model knows is answered by popularity; at the end a
        warning is logged that says how many there were.

        Args:
            histories: Any number of histories of any length, each a list of item ids, oldest
                first; the model reads the newest ``max_len``. A model that reads the times between
                events needs pairs of an item id and its time, in the unit of the data.
            k: How many items to recommend, at most all.
            exclude_seen: Do not recommend items that the history contains.
            candidates: Recommend only these items; unknown ones are skipped.
            filter: Recommend only items for whose id this returns true; called once per item.
            approx: Search with this recall by ``lax.approx_max_k``; ``None`` is exact.

        Raises:
            UserError: An argument or a history is invalid, or no item may be recommended.
        """
        k = self._at_most_all(k)
        check_list("histories", histories, "histories")
        exclude_seen = given_switch("exclude_seen", exclude_seen)
        number = isinstance(approx, Real) and not isinstance(approx, bool)
        if approx is not None and not (number and 0 < approx <= 1):
            raise UserError(f"approx must be a number above 0 and at most 1, not {approx!r:.80}")
        if filter is not None and not callable(filter):
            raise UserError(f"filter must be a function of an item's id, not {filter!r:.80}")
        pool = self._pool(candidates, filter)
        request = _Request(*pool, k, exclude_seen, None if approx is None else float(approx))
        answered, by_popularity = 0, 0
        for batch, top in self._computed(histories, request):
            answered += len(batch)
            by_popularity += sum(not known.newest_L.size for known in batch)
            yield from self._answers(batch, top, request)
        if by_popularity:
            log.warning(
                "histories without an item that the model knows: %s of %s; these are answered by "
                "popularity",
                f"{by_popularity:,}",
                f"{answered:,}",
            )

    def score(self, history: History, items: Sequence[object]) -> np.ndarray:
        """Return the model's scores of items after a history, float32 (len(items),).

        The score of an item that the model does not know is NaN.

        Raises:
            UserError: The history has no known item, or history or items are not lists.
        """
        check_list("items", items)
        check_list("a history", history)
        numbers, gaps, _ = self.events(history)
        if not numbers.size:
            raise UserError("the history has no item that this model knows; give one that has")
        newest = model_inputs([numbers[-self.max_len :]], [gaps], self.max_len)
        wanted = np.array([self.item_ids.number(item) for item in items], np.int32)
        rows = padded([wanted], 1, power_of_two(len(wanted)))[0]
        score_C = self._score(self._encode(self._params, newest), self._item_VxD, rows)
        return np.where(wanted > 0, np.asarray(score_C)[: len(wanted)], np.float32(np.nan))

    def similar_items(self, item: object, k: int = 10) -> Recommendation:
        """Return the k other items whose vectors have the largest cosine with that of this item.

        Raises:
            UserError: k is below 1, or the model does not know the item.
        """
        k = self._at_most_all(k)
        number = np.array([self.item_ids.number(item)], np.int32)
        if not number[0]:
            raise UserError(f"this model does not know item {item!r}; name another")
        unit_VxD = self._directions
        top = self._search(
            unit_VxD[number], unit_VxD, number[None], len(self.item_ids), k=_searched(k)
        )
        numbers = np.asarray(top.item_BxK)[0, :k]
        return self._named(numbers, np.asarray(top.score_BxK)[0, :k], "similarity", 0)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of parameters and item ids; equal fingerprints mean equal answers."""
        digest = hashlib.sha256("\0".join(self.item_ids.item_ids_V).encode())
        for leaf in jax.tree.leaves(self._params):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def _pool(
        self, candidates: Iterable[object] | None, keep: Filter | None
    ) -> tuple[np.ndarray, np.ndarray, jax.Array]:
        """Return the pool of the allowed items, the first fields of a request."""
        if candidates is None and keep is None:
            all_V = np.arange(len(self.item_ids), dtype=np.int32)
            return all_V, all_V, self._item_VxD
        if candidates is None:
            numbers = np.arange(1, len(self.item_ids), dtype=np.int32)
        else:
            check_list("candidates", candidates)
            numbers = np.unique(self.item_ids.numbers(candidates)[0])
        if keep is not None:
            kept = [given_truth("filter", keep(item)) for item in self.item_ids.ids(numbers)]
            numbers = numbers[np.array(kept, bool)]
        if not numbers.size:
            raise UserError("candidates and filter leave no item that this model knows; widen them")
        number_C = np.append(np.int32(0), numbers)
        column_V = np.zeros(len(self.item_ids), np.int32)
        column_V[number_C] = np.arange(number_C.size)
        rows = padded([number_C], 1, power_of_two(number_C.size))[0]
        return number_C, column_V, jnp.take(self._item_VxD, rows, axis=0)

    def _batches(self, histories: Iterable[History], request: _Request) -> Iterator[list[_Known]]:
        """Yield histories in batches, limited in the number of rows and of excluded items.

        A batch always ends after every ``batch_size`` histories, so that a request that continues
        from there has the same batches, and its answers the same bits.
        """
        source = iter(histories)
        while True:
            batch: list[_Known] = []
            widest, some = 0, False
            for history in islice(source, self.batch_size):
                some = True
                known = self._known(history, request)
                widest = max(widest, known.excluded_S.size)
                rows = power_of_two(len(batch) + 1)
                if batch and rows * power_of_two(widest) > _MOST_EXCLUDED:
                    yield batch
                    batch, widest = [], known.excluded_S.size
                batch.append(known)
            if not some:
                return
            yield batch

    def _known(self, history: History, request: _Request) -> _Known:
        check_list("a history", history)
        numbers, gaps, unknown = self.events(history)
        seen = np.unique(numbers) if request.exclude_seen else np.zeros(0, np.int32)
        # A copy: a view would keep all of a long history in memory.
        newest = numbers[-self.max_len :].copy()
        return _Known(newest, request.column_V[seen], unknown, gaps)

    def events(self, history: History) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Return the numbers of known items, log gaps of the newest, and the count of unknown."""
        if self.gap_unit is None:
            numbers, unknown = self.item_ids.numbers(history)
            return numbers, None, unknown
        numbers, gaps_L, unknown = self.item_ids.timed(history, self.gap_unit)
        gaps_L = gaps_L[-self.max_len :].copy()
        gaps_L[:1] = 0  # the model does not read the event before
        return numbers, gaps_L, unknown

    def _computed(
        self, histories: Iterable[History], request: _Request
    ) -> Iterator[tuple[list[_Known], Top]]:
        """Yield batches with their results; the next batch is computed while one is answered."""
        waiting = None
        for batch in self._batches(histories, request):
            started = batch, self._compute(batch, request)
            if waiting is not None:
                yield waiting
            waiting = started
        if waiting is not None:
            yield waiting

    def _compute(self, batch: list[_Known], request: _Request) -> Top:
        """Start the computation of a batch, without waiting for its results."""
        newest, gaps = [known.newest_L for known in batch], [known.gaps_L for known in batch]
        histories = model_inputs(newest, gaps, self.max_len)
        excluded = [known.excluded_S for known in batch]
        width = power_of_two(max(map(len, excluded)))
        return self._search(
            self._encode(self._params, histories),
            request.item_CxD,
            padded(excluded, len(histories.lengths_B), width),
            request.number_C.size,
            k=_searched(request.k),
            recall=request.approx,
        )

    def _answers(
        self, batch: list[_Known], top: Top, request: _Request
    ) -> Iterator[Recommendation]:
        k, number_C = request.k, request.number_C
        score_BxK, item_BxK = np.asarray(top.score_BxK)[:, :k], np.asarray(top.item_BxK)[:, :k]
        for known, score_K, item_K in zip(batch, score_BxK, item_BxK, strict=False):
            if known.newest_L.size:
                yield self._named(number_C[item_K], score_K, "model", known.unknown)
            else:
                count_C = self._popular_counts[number_C[1:]]
                popular = number_C[1:][np.argsort(-count_C, kind="stable")[:k]]
                counts = self._popular_counts[popular]
                yield self._named(popular, counts, "popularity", known.unknown)

    def _at_most_all(self, k: int) -> int:
        """Return k, but at most the number of items: the search allocates k places per history."""
        return min(given_number("k", k), len(self.item_ids) - 1)

    def _named(
        self, numbers: np.ndarray, scores: np.ndarray, by: str, unknown: int
    ) -> Recommendation:
        real = numbers > 0
        return Recommendation(self.item_ids.ids(numbers[real]), scores[real].tolist(), by, unknown)

    @cached_property
    def _directions(self) -> jax.Array:
        norm_Vx1 = jnp.linalg.norm(self._item_VxD, axis=1, keepdims=True)
        return self._item_VxD / jnp.maximum(norm_Vx1, np.finfo(np.float32).tiny)

    @cached_property
    def _popular_counts(self) -> np.ndarray:
        if self._popularity is None:
            raise UserError("a history has no known item, and there is no popularity to answer by")
        return self._popularity()


def _searched(k: int) -> int:
    """Return the k of the search: a power of two, so that few programs are compiled."""
    return max(16, power_of_two(k))
