"""What every neural recommender shares: the item table, its lookup and the scores."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.initializers import normal
from echojax.models.positions import at_position
from echojax.models.sequence_shards import NO_AXIS
from echojax.sharded_table import look_up


class SequenceModel(nnx.Module):
    """Embeds items and scores the catalogue; subclasses turn a history into one vector.

    Args:
        num_items: V, the catalogue with padding as item 0.
        d_model: D.
        max_len: L, how many of the newest items are read.
        rngs: streams of random keys for the initial parameters.

    ``objectives`` names the training objectives that fit the model, its own first
    (``echojax.training.objectives``). ``sequence_parallel`` says whether devices may each have a
    shard of every history (``echojax.models.sequence_shards``).
    """

    objectives: ClassVar[tuple[str, ...]] = ("prefixes",)
    sequence_parallel: ClassVar[bool] = False

    def __init__(self, num_items: int, *, d_model: int, max_len: int, rngs: nnx.Rngs):
        self.max_len = max_len
        self.activations: Any = None  # the dtype of what is looked up; None: the table's own
        self.time_axis = NO_AXIS
        self.item_axis: str | None = None  # the mapped axis that the item table is spread over
        self.in_training = False  # whether this is the copy of one training step
        self.item_embedding = nnx.Param(normal(rngs.params(), (num_items, d_model)))

    def encode(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return one vector a history, (B, D).

        Args:
            item_ids_BxL: item numbers 1..V-1 in time order, right padded with 0. Any L up to
                ``max_len``.
            lengths_B: items in each row, at least 1.
            dropout_keys: a random key a row while training, (B,); ``None`` switches dropout off.
        """
        raise NotImplementedError

    def catalogue(self) -> jax.Array:
        """Return the vectors that histories are compared with, one an item, (V, D)."""
        return self.item_embedding[...]

    def scores(self, item_ids_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
        """Return the logits of every item as the next one, (B, V); column 0 is padding."""
        return self.encode(item_ids_BxL, lengths_B) @ self.catalogue().T

    def lookup(self, item_ids_BxL: jax.Array) -> jax.Array:
        """Return the items' vectors, (B, L, D).

        Raises:
            ValueError: the histories are longer than ``max_len``.
        """
        item_ids_BxL = jnp.asarray(item_ids_BxL)
        if (length := item_ids_BxL.shape[1]) > self.max_len:
            raise ValueError(f"histories of {length} items, but max_len is {self.max_len}")
        x_BxLxD, table_VxD = look_up(self.item_embedding[...], item_ids_BxL, self.item_axis)
        if self.in_training:  # what reads the table next adds to the same gradient
            self.item_embedding.set_value(table_VxD)
        x_BxLxD = x_BxLxD if self.activations is None else x_BxLxD.astype(self.activations)
        # Padding's row is read but never trained by the lookup (PyTorch's padding_idx).
        return jnp.where((item_ids_BxL == 0)[..., None], jax.lax.stop_gradient(x_BxLxD), x_BxLxD)


class CausalModel(SequenceModel):
    """A model whose vector at a position depends on no later one: trainable on all positions."""

    objectives = ("all-positions", "prefixes")

    def encode_all(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return one vector a position, (B, L, D): what is known once its item has been read.

        Arguments as for ``encode``; what stands at and past ``lengths_B`` means nothing.
        """
        raise NotImplementedError

    def encode(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return the vector at the last item, (B, D); see ``SequenceModel.encode``."""
        all_BxLxD = self.encode_all(item_ids_BxL, lengths_B, dropout_keys=dropout_keys)
        return at_position(all_BxLxD, jnp.asarray(lengths_B) - 1)
