"""The models that are measured, with the sizes of their papers and random weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

from flax import nnx

from echojax.models import MODELS, SequenceModel
from echojax.models.echomamba4rec import Components, EchoMamba4Rec

__all__ = ["ITEMS", "MODELS", "STREAMED", "make_model"]

ITEMS = 10_000  # in the table that is looked up; its size does not matter to encoding

# Models that take one event at a time; EchoMamba4Rec can without its filter.
STREAMED: dict[str, Callable[..., Any]] = {
    **{name: MODELS[name] for name in ("mamba4rec", "gru4rec", "caser", "sasrec", "hstu", "narm")},
    "echomamba4rec-no-filter": partial(EchoMamba4Rec, components=Components(filter=False)),
}


def make_model(name: str, length: int) -> SequenceModel:
    """Return a model whose window has ``length`` places."""
    make: Callable[..., Any] = STREAMED.get(name) or MODELS[name]
    return make(ITEMS, max_len=length, rngs=nnx.Rngs(0))
