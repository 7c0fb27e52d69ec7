"""The base classes of all learned models: the item table, its lookup and the scores."""

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

    A subclass defines ``read_out``, and also ``arranged`` if its input is not the plain history. A
    subclass with ``start`` and ``step`` can take in one event at a time. Further sizes of
    subclasses are fields of ``Config``; their defaults are those of the paper.

    Args:
        num_items: V, the number of items, with padding as item 0.
        d_model: D.
        max_len: L, how many of the newest items are read.
        rngs: Streams of random keys for the initial parameters.

    Attributes:
        objectives: The training objectives that fit the model, the default first
            (``echojax.training.objectives``).
        sequence_parallel: Whether histories can be split over devices
            (``echojax.models.positions``).
        packs: Whether ``read_all`` takes ``segment_ids_BxL``, for rows that hold several histories
            (``echojax.data.packing``).
        windowed: Whether the state of ``step`` has ``max_len`` places, so that ``step`` needs the
            position of the event.
        not_causal: Why a new event changes the vectors of earlier positions; ``None`` if it does
            not.
        time_gaps: Whether the model reads the times between events; its methods then take
            ``gaps_BxL``, as ``encode`` does.
    """

    objectives: ClassVar[tuple[str, ...]] = ("prefixes",)
    sequence_parallel: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    windowed: ClassVar[bool] = False
    not_causal: str | None = None
    time_gaps: bool = False

    def __init__(self, num_items: int, *, d_model: int, max_len: int, rngs: nnx.Rngs):
        self.max_len = max_len
        self.activations: Any = None  # the dtype of looked-up vectors; ``None``: the table's
        self.item_axis: str | None = None  # the mapped axis over which the item table is sharded
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
        """Return one vector per history, (B, D).

        Args:
            item_ids_BxL: Item numbers 1..V-1 in time order, right padded with 0; L is at most
                ``max_len``.
            lengths_B: The number of items in each row, at least 1.
            gaps_BxL: With ``time_gaps``, the logarithms of the times since the previous event
                (``echojax.data.gaps``), 0 at the first event; float32.
            dropout_keys: In training, a random key per row, (B,); ``None`` switches dropout off.

        Raises:
            ValueError: The histories are longer than ``max_len``, or gaps are missing or not read.
        """
        times = self.times(gaps_BxL)
        items_BxL, lengths_B = self.arranged(jnp.asarray(item_ids_BxL), jnp.asarray(lengths_B))
        x_BxLxD, _ = self.lookup(items_BxL)
        return self.read_out(x_BxLxD, lengths_B, dropout_keys=dropout_keys, **times)

    def times(self, gaps_BxL: Gaps) -> dict[str, Array]:
        """Return gaps as keyword arguments; none for a model that does not read gaps.

        Raises:
            ValueError: The model reads gaps and there are none, or the reverse.
        """
        if self.time_gaps != (gaps_BxL is not None):
            wants = "reads the times between events" if self.time_gaps else "reads no times"
            raise ValueError(f"{type(self).__name__} {wants}; check gaps_BxL")
        return {} if gaps_BxL is None else {"gaps_BxL": jnp.asarray(gaps_BxL)}

    def arranged(self, item_ids_BxL: Array, lengths_B: Array) -> tuple[Array, Array]:
        """Return the model's input window of each history, and the number of items in it."""
        return item_ids_BxL, lengths_B

    def read_out(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the vectors of ``encode``, (B, D), from the embeddings of the arranged items."""
        raise NotImplementedError

    def output_embeddings(self, item_VxD: Array | None = None) -> Array:
        """Return the item embeddings with which the vectors of histories are compared, (V, D).

        ``item_VxD`` is the item table that ``lookup`` returned; by default, it is the model's.
        """
        return self.item_embedding[...] if item_VxD is None else item_VxD

    def scores(self, item_ids_BxL: Array, lengths_B: Array, gaps_BxL: Gaps = None) -> Array:
        """Return the logits of every item as the next one, (B, V); column 0 is padding.

        Raises:
            ValueError: As ``encode``; or an item number is no integer or not in the table, or a
                length is not in 1..L. (Inside ``jax.jit``, values cannot be checked.)
        """
        items_VxD = self.output_embeddings()
        check_histories(item_ids_BxL, lengths_B, items_VxD.shape[0])
        return self.encode(item_ids_BxL, lengths_B, gaps_BxL=gaps_BxL) @ items_VxD.T

    def lookup(self, item_ids_BxL: Array) -> tuple[Array, Array]:
        """Return the items' vectors, (B, L, D), and the item table.

        Later reads of the table should use the returned one, so that their gradients are added to
        the same array (``embedding_lookup``).

        Raises:
            ValueError: The histories are longer than ``max_len``.
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
        """Return the vectors of one item per row, (B, D)."""
        return self.lookup(item_B[:, None])[0][:, 0]


class CausalModel(SequenceModel):
    """A model whose vectors depend on no later position, so that it can train on all at once.

    A subclass defines ``read_all``, and also ``read_out`` if it can be computed at lower cost.
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
        """Return one vector per position, (B, L, D): ``encode`` of the prefix that ends there.

        The arguments are those of ``encode``. Results from ``lengths_B`` on have no meaning.

        Raises:
            ValueError: Later events change the vectors of earlier positions (``not_causal``).
        """
        times = self.times(gaps_BxL)
        x_BxLxD, _ = self.lookup(item_ids_BxL)
        return self.read_all(x_BxLxD, jnp.asarray(lengths_B), dropout_keys=dropout_keys, **times)

    def read_all(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the vectors of ``encode_all``, (B, L, D), from the embeddings of the items."""
        raise NotImplementedError

    def read_out(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the vector at the last item, (B, D); see ``SequenceModel.read_out``."""
        all_BxLxD = self.read_all(x_BxLxD, lengths_B, dropout_keys=dropout_keys)
        return at_position(all_BxLxD, lengths_B - 1)


class LayeredModel(SequenceModel):
    """Embedding -> layers -> head; the last layer is computed at the last item only.

    ``layers`` holds modules that are called with vectors (B, L, D), lengths and dropout keys. Their
    ``readout`` takes the same arguments and returns the output at the last item only, (B, D). To
    take in one event at a time, they have ``start(batch, max_len, dtype)``, which returns a state,
    and ``step(state, x_BxD, position_B)``, which returns the next state and the output.
    """

    layers: Any

    def embed(self, x: Array, keys: Keys, position_B: Array | None = None) -> Array:
        """Return the input of the first layer, in the shape of ``x``.

        ``x`` holds the items' vectors at all positions, (B, L, D), or those of one item per row,
        (B, D), at the positions ``position_B``.
        """
        raise NotImplementedError

    def head(self, x: Array) -> Array:
        """Return the vectors of histories from the output of the last layer."""
        return x

    def read_all(
        self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None, **times: Array
    ) -> Array:
        """Return one vector per position, (B, L, D), from the embeddings of the items."""
        x_BxLxD, key = self._below_last(x_BxLxD, lengths_B, dropout_keys, times)
        return self.head(self.layers[-1](x_BxLxD, lengths_B, dropout_keys=key, **times))

    def read_out(
        self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None, **times: Array
    ) -> Array:
        """Return one vector per history, (B, D); see ``SequenceModel.read_out``."""
        x_BxLxD, key = self._below_last(x_BxLxD, lengths_B, dropout_keys, times)
        return self.head(self.layers[-1].readout(x_BxLxD, lengths_B, dropout_keys=key, **times))

    def start(self, batch: int) -> list[Any]:
        """Return the state of each layer before the first event, with ``max_len`` places."""
        dtype = self.item_embedding[...].dtype
        return [layer.start(batch, self.max_len, dtype) for layer in self.layers]

    def step(
        self,
        states: list[Any],
        item_B: Array,
        position_B: Array | None = None,
        gaps_BxL: Gaps = None,
    ) -> tuple[list[Any], Array]:
        """Take in one more item per row; return the states and the vectors after it, (B, D).

        ``windowed`` models need the position of each item in its history, ``position_B``. Gaps are
        those of the whole window, (B, L), for these models, and those of the item, (B, 1), for
        others.

        Raises:
            ValueError: Gaps or positions are missing.
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
        """Return the input of the last layer, and its dropout keys."""
        keys = split_keys(dropout_keys, len(self.layers) + 1)
        x_BxLxD = self.embed(x_BxLxD, keys[0])
        for layer, key in zip(self.layers[:-1], keys[1:-1], strict=True):
            x_BxLxD = layer(x_BxLxD, lengths_B, dropout_keys=key, **times)
        return x_BxLxD, keys[-1]


def with_precision(model: SequenceModel, precision: str) -> SequenceModel:
    """Return a model that computes with activations of this precision, "float32" or "bf16".

    Parameters with ``keep_float32`` are not cast, so that computations with them are in float32;
    normalisations always compute their moments in float32. Gradients with respect to the state that
    ``model`` was merged from have the dtypes of that state.
    """
    if precision == "float32":
        return model
    graphdef, params, rates = nnx.split(model, nnx.Variable, ...)
    model = nnx.merge(
        graphdef,
        map_with_facts(
            lambda facts, x: x if facts.get("keep_float32") else x.astype(jnp.bfloat16), params
        ),
        rates,
    )
    model.activations = jnp.bfloat16
    return model


def with_axes(model: SequenceModel, axes: Axes) -> SequenceModel:
    """Return the model, changed to compute this device's part in a function mapped over ``axes``.

    ``model`` must have been merged inside the function that is traced.
    """
    model.item_axis = axes.items
    for _, module in nnx.iter_modules(model):
        if isinstance(module, TimeSharded):
            module.time_axis = axes.time
    return model


def check_histories(item_ids_BxL: Any, lengths_B: Any, num_items: int) -> None:
    """Raise ``ValueError`` for invalid item numbers or lengths; traced arrays are not checked."""
    if isinstance(item_ids_BxL, jax.core.Tracer) or isinstance(lengths_B, jax.core.Tracer):
        return
    items, lengths = np.asarray(item_ids_BxL), np.asarray(lengths_B)
    check_item_numbers(items, num_items)
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= items.shape[1]:
        wrong = lengths.min() if lengths.min() < 1 else lengths.max()
        raise ValueError(f"a history of length {wrong}: it must be 1 to {items.shape[1]}")


def check_item_numbers(items: np.ndarray, num_items: int) -> None:
    """Raise ``ValueError`` if item numbers are no integers or not in a table of ``num_items``."""
    if not items.size:
        return
    if not np.issubdtype(items.dtype, np.integer):
        raise ValueError(f"item numbers are integers, not {items.dtype}; convert them")
    if not 0 <= items.min() <= items.max() < num_items:
        wrong = items.min() if items.min() < 0 else items.max()
        raise ValueError(
            f"item {wrong} is not in the table: items are numbered 1 to {num_items - 1}, "
            "and 0 is padding"
        )
