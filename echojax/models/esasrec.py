"""eSASRec (arXiv 2508.06450): SASRec's objective, LiGR's layers (arXiv 2502.03417)."""

from flax import nnx
from jax import Array

from echojax.models.attention import SelfAttention
from echojax.models.base import CausalModel, LayeredModel
from echojax.models.layers import Keys, LayerNorm, Linear, dropout, normal, split_keys
from echojax.models.transformer import TransformerLayer

_EPSILON = 1e-5  # of PyTorch's layer normalisation
_xavier = nnx.initializers.variance_scaling(1.0, "fan_avg", "normal")


class GatedAttention(SelfAttention):
    """``x + sigmoid(gate(x)) * dropout(attention(LayerNorm(x)))``, causal."""

    def __init__(self, d_model: int, *, heads: int, dropout: float, rngs: nnx.Rngs):
        super().__init__(
            d_model, heads=heads, causal=True, dropout=dropout, kernel_init=_xavier, rngs=rngs
        )
        self.norm = LayerNorm(d_model, epsilon=_EPSILON, rngs=rngs)
        self.gate = Linear(d_model, d_model, kernel_init=_xavier, rngs=rngs)

    def read(self, x: Array) -> Array:
        """Return the normalised input."""
        return self.norm(x)

    def joined(self, y: Array, x: Array) -> Array:
        """Return the gated residual."""
        return x + nnx.sigmoid(self.gate(x)) * y


class GatedSwiGLU(nnx.Module):
    """``x + sigmoid(gate(x)) * dropout(w_2(dropout(silu(w_1 z) * w_3 z)))``, z normalised x.

    Four times as wide inside, where no map has a bias.
    """

    def __init__(self, d_model: int, *, dropout: float, rngs: nnx.Rngs):
        self.dropout = dropout
        self.norm = LayerNorm(d_model, epsilon=_EPSILON, rngs=rngs)
        wide = 4 * d_model
        self.w_1 = Linear(d_model, wide, use_bias=False, kernel_init=_xavier, rngs=rngs)
        self.w_3 = Linear(d_model, wide, use_bias=False, kernel_init=_xavier, rngs=rngs)
        self.w_2 = Linear(wide, d_model, use_bias=False, kernel_init=_xavier, rngs=rngs)
        self.gate = Linear(d_model, d_model, kernel_init=_xavier, rngs=rngs)

    def __call__(self, x: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the same shape as ``x`` (B, ..., D)."""
        keys = split_keys(dropout_keys, 2)
        normed = self.norm(x)
        inner = dropout(nnx.silu(self.w_1(normed)) * self.w_3(normed), self.dropout, keys[0])
        return x + nnx.sigmoid(self.gate(x)) * dropout(self.w_2(inner), self.dropout, keys[1])


class LiGRLayer(TransformerLayer):
    """Gated attention, then a gated SwiGLU network (LiGR section 3.3); arguments as for these."""

    def __init__(self, d_model: int, *, heads: int, dropout: float, rngs: nnx.Rngs):
        self.attention = GatedAttention(d_model, heads=heads, dropout=dropout, rngs=rngs)
        self.ffn = GatedSwiGLU(d_model, dropout=dropout, rngs=rngs)


class ESASRec(LayeredModel, CausalModel):
    """Embedding -> positions -> dropout -> [LiGR layer] x layers, without a last normalisation.

    The layers are those of the authors' code (RecTools), the sizes those that they chose on ml-1m,
    where they train with ``--loss sampled-softmax`` on 256 negatives. Two things differ: the
    oldest item shown is at position 0 (theirs count from the end of the window), so that all
    positions of one pass are the encoded prefixes; and attention probabilities are not dropped, see
    ``echojax.models.attention``.
    """

    windowed = True

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 64,
        layers: int = 2,
        heads: int = 1,
        dropout: float = 0.1,
        max_len: int = 50,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.dropout = dropout
        self.position_LxD = nnx.Param(normal(rngs.params(), (max_len, d_model)))
        self.layers = nnx.List(
            [LiGRLayer(d_model, heads=heads, dropout=dropout, rngs=rngs) for _ in range(layers)]
        )

    def embed(self, x: Array, keys: Keys, position_B: Array | None = None) -> Array:
        """Return the items' vectors with those of their positions; see ``LayeredModel.embed``."""
        position_LxD = self.position_LxD[slice(x.shape[1]) if position_B is None else position_B]
        return dropout(x + position_LxD, self.dropout, keys)
