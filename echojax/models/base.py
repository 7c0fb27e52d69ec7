"""What every neural recommender shares: the item table, its lookup and the scores."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from echojax.mesh import Axes
from echojax.models.layers import Gaps, Keys, normal, split_keys
from echojax.models.positions import TimeSharded, at_position
from echojax.parameters import map_with_facts
from echojax.sharded_embedding import embedding_lookup


class SequenceModel(TimeSharded):
    """Embeds items and scores all of them; subclasses turn a history into one vector.

    A subclass has ``read_out``, and ``arranged`` where its window is not simply the history.

    Args:
        num_items: V, the items with padding as item 0.
        d_model: D.
        max_len: L, how many of the newest items are read.
        rngs: streams of random keys for the initial parameters.

    ``objectives`` names the training objectives that fit the model, its own first
    (``echojax.training.objectives``). ``sequence_parallel`` says whether devices may each have a
    shard of every history (``echojax.models.positions``), ``not_causal`` why one more event changes
    more than the newest position (``None`` where it does not), ``packs`` whether ``read_all`` takes
    ``segment_ids_BxL`` of rows that hold several histories (``echojax.data.packing``).
    ``time_gaps`` says that the model reads the times between events: its methods then take
    ``gaps_BxL``, as ``encode`` does. A model with ``start`` and ``step`` takes one event at a time;
    ``windowed`` says that its state has ``max_len`` places, and ``step`` needs the position of the
    event. Subclasses have further sizes, which ``Config`` describes; their defaults are the
    paper's.
    """

    objectives: ClassVar[tuple[str, ...]] = ("prefixes",)
    sequence_parallel: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    windowed: ClassVar[bool] = False
    not_causal: str | None = None
    time_gaps: bool = False

    def __init__(self, num_items: int, *, d_model: int, max_len: int, rngs: nnx.Rngs):
        self.max_len = max_len
        self.activations: Any = None  # the dtype of what is looked up; None: the table's own
        self.item_axis: str | None = None  # the mapped axis that the item table is spread over
        table_VxD = normal(rngs.params(), (num_items, d_model))
        # Its gradient sums over a batch.
        self.item_embedding = nnx.Param(table_VxD, per_item=True, keep_float32=True)

    def encode(
        self,
        item_ids_BxL: Array,
        lengths_B: Array,
        *,
        gaps_BxL: Gaps = None,
        dropout_keys: Keys = None,
    ) -> Array:
        """Return one vector a history, (B, D).

        Args:
            item_ids_BxL: item numbers 1..V-1 in time order, right padded with 0. Any L up to
                ``max_len``.
            lengths_B: items in each row, at least 1.
            gaps_BxL: with ``time_gaps``, the logarithms of the times since the event before
                (``echojax.data.gaps``), 0 at the first; float32.
            dropout_keys: a random key a row while training, (B,); ``None`` switches dropout off.

        Raises:
            ValueError: the histories are longer than ``max_len``, or have no gaps and the model
                reads them.
        """
        times = self.times(gaps_BxL)
        items_BxL, lengths_B = self.arranged(jnp.asarray(item_ids_BxL), jnp.asarray(lengths_B))
        x_BxLxD, _ = self.lookup(items_BxL)
        return self.read_out(x_BxLxD, lengths_B, dropout_keys=dropout_keys, **times)

    def times(self, gaps_BxL: Gaps) -> dict[str, Array]:
        """Return gaps as the argument of a method; nothing for a model that reads none.

        Gaps where it reads none, or the reverse, are a ``ValueError``.
        """
        if self.time_gaps != (gaps_BxL is not None):
            wants = "reads the times between events" if self.time_gaps else "reads no times"
            raise ValueError(f"{type(self).__name__} {wants}; check gaps_BxL")
        return {} if gaps_BxL is None else {"gaps_BxL": jnp.asarray(gaps_BxL)}

    def arranged(self, item_ids_BxL: Array, lengths_B: Array) -> tuple[Array, Array]:
        """Return the items as the model has them in its window, and the lengths there."""
        return item_ids_BxL, lengths_B

    def read_out(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return ``encode``'s vectors, (B, D), from those of the arranged items."""
        raise NotImplementedError

    def output_embeddings(self, item_VxD: Array | None = None) -> Array:
        """Return the item embeddings that histories' vectors are compared with, (V, D).

        ``item_VxD``: the item table, where it is not the model's own but what ``lookup`` returned.
        """
        return self.item_embedding[...] if item_VxD is None else item_VxD

    def scores(self, item_ids_BxL: Array, lengths_B: Array, gaps_BxL: Gaps = None) -> Array:
        """Return the logits of every item as the next one, (B, V); column 0 is padding.

        Raises:
            ValueError: as ``encode``, or an item's number is not in the table, or a length not
                among 1..L. (Inside ``jax.jit`` there are no numbers to check.)
        """
        items_VxD = self.output_embeddings()
        check_histories(item_ids_BxL, lengths_B, items_VxD.shape[0])
        return self.encode(item_ids_BxL, lengths_B, gaps_BxL=gaps_BxL) @ items_VxD.T

    def lookup(self, item_ids_BxL: Array) -> tuple[Array, Array]:
        """Return the items' vectors, (B, L, D), and the item table.

        Whoever reads the table next, reading what is returned, adds to the same gradient
        (``embedding_lookup``).

        Raises:
            ValueError: the histories are longer than ``max_len``.
        """
        item_ids_BxL = jnp.asarray(item_ids_BxL)
        if (length := item_ids_BxL.shape[1]) > self.max_len:
            raise ValueError(f"histories of {length} items, but max_len is {self.max_len}")
        x_BxLxD, table_VxD = embedding_lookup(
            self.item_embedding[...], item_ids_BxL, self.item_axis
        )
        x_BxLxD = x_BxLxD if self.activations is None else x_BxLxD.astype(self.activations)
        # Padding's row is read but never trained by the lookup (PyTorch's padding_idx).
        x_BxLxD = jnp.where((item_ids_BxL == 0)[..., None], jax.lax.stop_gradient(x_BxLxD), x_BxLxD)
        return x_BxLxD, table_VxD

    def lookup_one(self, item_B: Array) -> Array:
        """Return the vectors of one item a row, (B, D)."""
        return self.lookup(item_B[:, None])[0][:, 0]


class CausalModel(SequenceModel):
    """A model whose vector at a position depends on no later one: trainable on all positions.

    A subclass has ``read_all``, and its own ``read_out`` where that is cheaper.
    """

    objectives = ("all-positions", "prefixes")

    def encode_all(
        self,
        item_ids_BxL: Array,
        lengths_B: Array,
        *,
        gaps_BxL: Gaps = None,
        dropout_keys: Keys = None,
    ) -> Array:
        """Return one vector a position, (B, L, D): ``encode`` of the prefix that ends there.

        Arguments as for ``encode``; what stands at and past ``lengths_B`` means nothing.

        Raises:
            ValueError: a later event changes what earlier positions read (``not_causal``).
        """
        times = self.times(gaps_BxL)
        x_BxLxD, _ = self.lookup(item_ids_BxL)
        return self.read_all(x_BxLxD, jnp.asarray(lengths_B), dropout_keys=dropout_keys, **times)

    def read_all(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return ``encode_all``'s vectors, (B, L, D), from those of the items."""
        raise NotImplementedError

    def read_out(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the vector at the last item, (B, D); see ``SequenceModel.read_out``."""
        all_BxLxD = self.read_all(x_BxLxD, lengths_B, dropout_keys=dropout_keys)
        return at_position(all_BxLxD, lengths_B - 1)


class LayeredModel(SequenceModel):
    """Embedding -> layers -> head; of the last layer only the last item's output is computed.

    ``layers`` holds modules that are called with vectors (B, L, D), lengths and dropout keys, and
    whose ``readout`` with the same arguments returns the output at the last item only, (B, D). To
    take in one event at a time they have ``start(batch, max_len, dtype)``, a state, and
    ``step(state, x_BxD, position_B)``, which returns the next state and the output.
    """

    layers: Any

    def embed(self, x: Array, keys: Keys, position_B: Array | None = None) -> Array:
        """Return what the first layer reads, of the shape of the items' vectors.

        They are those at all positions, or of one item a row, (B, D), with its position.
        """
        raise NotImplementedError

    def head(self, x: Array) -> Array:
        """Return a history's vector from what the last layer returns."""
        return x

    def read_all(
        self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None, **times: Array
    ) -> Array:
        """Return one vector a position, (B, L, D), from those of the items."""
        x_BxLxD, key = self._below_last(x_BxLxD, lengths_B, dropout_keys, times)
        return self.head(self.layers[-1](x_BxLxD, lengths_B, dropout_keys=key, **times))

    def read_out(
        self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None, **times: Array
    ) -> Array:
        """Return one vector a history, (B, D); see ``SequenceModel.read_out``."""
        x_BxLxD, key = self._below_last(x_BxLxD, lengths_B, dropout_keys, times)
        return self.head(self.layers[-1].readout(x_BxLxD, lengths_B, dropout_keys=key, **times))

    def start(self, batch: int) -> list[Any]:
        """Return each layer's state before the first event, with room for ``max_len`` events."""
        dtype = self.item_embedding[...].dtype
        return [layer.start(batch, self.max_len, dtype) for layer in self.layers]

    def step(
        self,
        states: list[Any],
        item_B: Array,
        position_B: Array | None = None,
        gaps_BxL: Gaps = None,
    ) -> tuple[list[Any], Array]:
        """Take in one more item a row; return the states and the vector after it, (B, D).

        ``windowed`` models need ``position_B``, that of each item in its history. Of gaps they read
        the whole window's, (B, L), others the item's own, (B, 1).

        Raises:
            ValueError: they have none.
        """
        times = self.times(gaps_BxL)
        if self.windowed and position_B is None:
            raise ValueError(f"{type(self).__name__}.step needs the position of each item")
        x_BxD, after = self.embed(self.lookup_one(item_B), None, position_B), []
        for layer, state in zip(self.layers, states, strict=True):
            state, x_BxD = layer.step(state, x_BxD, position_B, **times)
            after.append(state)
        return after, self.head(x_BxD)

    def _below_last(
        self, x_BxLxD: Array, lengths_B: Array, dropout_keys: Keys, times: dict[str, Array]
    ) -> tuple[Array, Keys]:
        """Return what the last layer reads, and its keys."""
        keys = split_keys(dropout_keys, len(self.layers) + 1)
        x_BxLxD = self.embed(x_BxLxD, keys[0])
        for layer, key in zip(self.layers[:-1], keys[1:-1], strict=True):
            x_BxLxD = layer(x_BxLxD, lengths_B, dropout_keys=key, **times)
        return x_BxLxD, keys[-1]


PRECISIONS = {"float32": None, "bf16": jnp.bfloat16}


def with_precision(model: SequenceModel, precision: str) -> SequenceModel:
    """Return a model that computes with activations of the named precision.

    Parameters with ``keep_float32`` are not cast, so that what is computed with them is float32;
    normalisations take their moments in float32 whatever they are given. Gradients with respect to
    what ``model`` was merged from are of the parameters' own dtype.
    """
    dtype = PRECISIONS[precision]
    if dtype is None:
        return model
    graphdef, params, rates = nnx.split(model, nnx.Variable, ...)
    model = nnx.merge(
        graphdef,
        map_with_facts(
            lambda facts, x: x if facts.get("keep_float32") else x.astype(dtype), params
        ),
        rates,
    )
    model.activations = dtype
    return model


def with_axes(model: SequenceModel, axes: Axes) -> SequenceModel:
    """Return a model that computes this device's part inside a function mapped over ``axes``.

    ``model`` is one that was merged for the traced function at hand: it is changed.
    """
    model.item_axis = axes.items
    for _, module in nnx.iter_modules(model):
        if isinstance(module, TimeSharded):
            module.time_axis = axes.time
    return model


def check_histories(item_ids_BxL: Any, lengths_B: Any, num_items: int) -> None:
    """Raise ``ValueError`` for numbers that mean nothing; of traced arrays nothing is known."""
    if isinstance(item_ids_BxL, jax.core.Tracer) or isinstance(lengths_B, jax.core.Tracer):
        return
    items, lengths = np.asarray(item_ids_BxL), np.asarray(lengths_B)
    check_item_numbers(items, num_items)
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= items.shape[1]:
        wrong = lengths.min() if lengths.min() < 1 else lengths.max()
        raise ValueError(f"a history of length {wrong}: it must be 1 to {items.shape[1]}")


def check_item_numbers(items: np.ndarray, num_items: int) -> None:
    """Raise ``ValueError`` where an item's number is not in the table of ``num_items``."""
    if items.size and not 0 <= items.min() <= items.max() < num_items:
        wrong = items.min() if items.min() < 0 else items.max()
        raise ValueError(
            f"item {wrong} is not in the table: items are numbered 1 to {num_items - 1}, "
            "and 0 is padding"
        )
