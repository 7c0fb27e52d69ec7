"""A trained model that is asked by the data's own item ids."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from echojax.errors import UserError
from echojax.evaluation.tiles import Top
from echojax.models import SequenceModel
from echojax.serving.batches import make_batch, padded, power_of_two
from echojax.serving.item_ids import ItemIds, check_list
from echojax.serving.pool import Filter, Pool, chosen
from echojax.serving.popularity import most_popular, read_popularity
from echojax.serving.programs import programs
from echojax.serving.titles import check_places
from echojax.serving.top_k import top_k
from echojax.serving.trained import read_trained

History = Sequence[object]  # item ids, oldest first


class Recommendation(NamedTuple):
    """What one history is answered with.

    Attributes:
        item_ids: the best items first, by the data's own ids; fewer than k where there are fewer.
        scores: theirs: logits of the model, training interactions, or cosines.
        by: "model"; "popularity" where the history has no known item; "similarity".
        unknown: items of the history that the catalogue does not have and that were skipped.
    """

    item_ids: list[str]
    scores: list[float]
    by: str
    unknown: int


class _Request(NamedTuple):
    pool: Pool
    k: int
    exclude_seen: bool
    approx: float | None


_Read = tuple[np.ndarray, int]  # a history's item numbers, and how many items were unknown


class Recommender:
    """Recommends next items.

    Args:
        model: a trained model.
        item_ids_V: str (V,), the data's own ids by item number; number 0 is padding.
        popularity: returns the training interactions of each item, (V,); called when the first
            history without a known item comes. ``None``: such a history is an error.
        batch_size: histories computed at once; ``None``: 64 on a CPU, 1024 elsewhere.
    """

    def __init__(
        self,
        model: SequenceModel,
        item_ids_V: np.ndarray,
        *,
        popularity: Callable[[], np.ndarray] | None = None,
        batch_size: int | None = None,
    ):
        self.item_ids = ItemIds(item_ids_V)
        self.max_len = model.max_len
        self.batch_size = batch_size or (64 if jax.default_backend() == "cpu" else 1024)
        self._popularity = popularity
        self._item_VxD = jnp.asarray(model.catalogue())
        params, recommend, score = programs(model)
        self._params = jax.tree.map(jnp.asarray, params)  # NumPy's would be moved at every call
        self._best = jax.jit(recommend, static_argnames=("k", "approx"))
        self._score = jax.jit(score)
        self._nearest = jax.jit(top_k, static_argnames="k")

    @classmethod
    def load(
        cls,
        run_dir: str | Path,
        *,
        data_dir: str | None = None,
        data_path: str | None = None,
        batch_size: int | None = None,
        say: Callable[[str], None] = print,
    ) -> "Recommender":
        """Return the recommender of a run's best checkpoint.

        Args:
            run_dir: the run folder.
            data_dir: where the data lies now; it is read for popularity alone.
            data_path: where the run's own file lies now.
            batch_size: histories computed at once.
            say: prints one line.

        Raises:
            UserError: no run, no model in it, no whole checkpoint, or the data is not where it is
                said to be.
        """
        check_places(data_dir, data_path)
        folder = Path(run_dir)
        trained = read_trained(folder, say)
        popularity = partial(
            read_popularity, folder, trained.config, data_dir=data_dir, data_path=data_path, say=say
        )
        return cls(trained.model, trained.item_ids, popularity=popularity, batch_size=batch_size)

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

        Args:
            histories: the data's own item ids, oldest first, any number of any length; the model
                reads the newest ``max_len``.
            k: how many items; all where the catalogue has fewer.
            exclude_seen: leave out what the history holds anywhere.
            candidates: recommend these alone (unknown ones are skipped).
            filter: recommend only items whose id it says yes to; asked once an item.
            approx: search with this recall by ``lax.approx_max_k``; ``None`` is exact.

        Raises:
            UserError: k, candidates, filter or a history cannot be answered.
        """
        k = self._number_asked(k)
        if approx is not None and not 0 < approx <= 1:
            raise UserError(f"approx must be above 0 and at most 1, not {approx}")
        pool = Pool(self._item_VxD, chosen(self.item_ids, candidates, filter))
        request = _Request(pool, k, exclude_seen, approx)
        source, waiting = iter(histories), None
        while chunk := list(islice(source, self.batch_size)):
            asked = self._ask(chunk, request)
            # The next batch is computed while this one's answers are taken apart.
            if waiting is not None:
                yield from self._answers(*waiting, request)
            waiting = asked
        if waiting is not None:
            yield from self._answers(*waiting, request)

    def score(self, history: History, items: Sequence[object]) -> np.ndarray:
        """Return the model's scores of items behind a history, float32 (len(items),).

        An item that the catalogue does not have scores NaN.

        Raises:
            UserError: the history has no known item, or history or items are no list.
        """
        check_list("items", items)
        numbers, _ = self._known(history)
        if not numbers.size:
            raise UserError(
                "the history has no item of this model's catalogue; nothing to score by"
            )
        batch = make_batch([numbers], [numbers[:0]], self.max_len)
        wanted = np.array([self.item_ids.number(item) for item in items], np.int32)
        rows = padded([wanted], 1, power_of_two(len(wanted)))[0]
        score_C = self._score(
            self._params, self._item_VxD, batch.item_ids_BxL, batch.lengths_B, rows
        )
        return np.where(wanted > 0, np.asarray(score_C)[: len(wanted)], np.float32(np.nan))

    def similar_items(self, item: object, k: int = 10) -> Recommendation:
        """Return the k other items whose vectors have the largest cosine with this item's.

        Raises:
            UserError: k is below 1, or the item is not in the catalogue.
        """
        k = self._number_asked(k)
        number = np.array([self.item_ids.number(item)], np.int32)
        if not number[0]:
            raise UserError(f"item {item!r} is not in the catalogue of this model")
        unit_VxD = self._directions
        top = self._nearest(
            unit_VxD[number], unit_VxD, number[None], len(self.item_ids), k=_wide(k)
        )
        numbers = np.asarray(top.item_BxK)[0, :k]
        return self._named(numbers, np.asarray(top.score_BxK)[0, :k], "similarity", 0)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of parameters and item ids: two that have it alike answer alike."""
        digest = hashlib.sha256("\0".join(self.item_ids.item_ids_V).encode())
        for leaf in jax.tree.leaves(self._params):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def _ask(self, histories: list[History], request: _Request) -> tuple[list[_Read], Top]:
        """Start the computation of a batch; nothing is waited for."""
        read = [self._known(history) for history in histories]
        nothing = np.zeros(0, np.int32)
        excluded = [
            request.pool.columns(np.unique(numbers)) if request.exclude_seen else nothing
            for numbers, _ in read
        ]
        batch = make_batch([numbers for numbers, _ in read], excluded, self.max_len)
        top = self._best(
            self._params, request.pool.item_CxD, *batch, request.pool.number_C.size,
            k=_wide(request.k), approx=request.approx,
        )  # fmt: skip
        return read, top

    def _answers(self, read: list[_Read], top: Top, request: _Request) -> Iterator[Recommendation]:
        k, number_C = request.k, request.pool.number_C
        score_BxK, item_BxK = np.asarray(top.score_BxK)[:, :k], np.asarray(top.item_BxK)[:, :k]
        for (numbers, unknown), score_K, item_K in zip(read, score_BxK, item_BxK, strict=False):
            if numbers.size:
                yield self._named(number_C[item_K], score_K, "model", unknown)
            else:
                popular = most_popular(self._popular_counts, number_C[1:], k)
                yield self._named(popular, self._popular_counts[popular], "popularity", unknown)

    def _number_asked(self, k: int) -> int:
        """Return k, or the catalogue's size where that is less: the search holds k a history."""
        if not isinstance(k, int | np.integer) or k < 1:
            raise UserError(f"k must be a whole number of at least 1, not {k}")
        return min(int(k), len(self.item_ids) - 1)

    def _known(self, history: History) -> _Read:
        check_list("a history", history)
        return self.item_ids.numbers(history)

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


def _wide(k: int) -> int:
    """Return how many are searched for: few values, so that few programs are compiled."""
    return max(16, power_of_two(k))
