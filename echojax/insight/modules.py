"""Components of a model by their kind, and parts put in their place to look or reach inside.

A model that was merged for one traced function may be changed freely there: the models' own code
needs no hooks, and training never meets the replacements.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
from flax import nnx

from echojax.models import SequenceModel
from echojax.models.echomamba4rec import BidirectionalMamba
from echojax.models.mamba import Mamba

Kind = TypeVar("Kind", bound=nnx.Module)


def modules(model: SequenceModel, kind: type[Kind]) -> list[Kind]:
    """Return the model's modules of one kind, the first layer's first."""
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, kind)]


def mambas(model: SequenceModel) -> Iterator[tuple[str, Mamba]]:
    """Yield each Mamba with its name: "0/forward", "0/backward", "1/forward" and so on.

    The number counts those of one direction, the first layer's first; a model that runs in one
    direction alone has forward ones.
    """
    pairs = modules(model, BidirectionalMamba)
    if not pairs:
        yield from ((f"{i}/forward", mamba) for i, mamba in enumerate(modules(model, Mamba)))
    for i, pair in enumerate(pairs):
        yield f"{i}/forward", pair.forward
        if pair.backward is not None:
            yield f"{i}/backward", pair.backward


def has_two_branches(model: SequenceModel) -> bool:
    """Return whether the model reads its history in both directions apart."""
    return any(pair.backward is not None for pair in modules(model, BidirectionalMamba))


class Recorder(nnx.Module):
    """Shows ``record`` what ``inner`` returns."""

    def __init__(self, inner: nnx.Module, record: Callable[[jax.Array], None]):
        self.inner, self.record = inner, record

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``inner``'s output."""
        y = self.inner(x)
        self.record(y)
        return y


class Gate(nnx.Module):
    """Lets gradients of ``inner`` through (gate 1) or not (gate 0); its values stay the same."""

    def __init__(self, inner: nnx.Module, gate: float | jax.Array):
        self.inner, self.gate = inner, gate

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``inner``'s output."""
        y = self.inner(x)
        constant = jax.lax.stop_gradient(y)
        return constant + self.gate * (y - constant)


class Shift(nnx.Module):
    """Adds ``offset_BxLxD`` to what a bidirectional Mamba reads, and shows it to ``record``."""

    def __init__(
        self,
        inner: BidirectionalMamba,
        offset_BxLxD: jax.Array,
        record: Callable[[jax.Array], None],
    ):
        self.inner, self.offset_BxLxD, self.record = inner, offset_BxLxD, record

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return ``inner``'s output at every position, (B, L, D)."""
        return self.inner(self._shifted(x_BxLxD), lengths_B, dropout_keys=dropout_keys)

    def readout(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return ``inner``'s output at the read-out, (B, D)."""
        return self.inner.readout(self._shifted(x_BxLxD), lengths_B, dropout_keys=dropout_keys)

    def _shifted(self, x_BxLxD: jax.Array) -> jax.Array:
        self.record(x_BxLxD)
        return x_BxLxD + self.offset_BxLxD
