"""Models, one file each, behind one interface (``SequenceModel``)."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from echojax.config import Config
from echojax.errors import UserError, unknown_name
from echojax.models.base import SequenceModel
from echojax.models.bidirectional import Mends
from echojax.models.echomamba4rec import VARIANTS, EchoMamba4Rec
from echojax.models.mamba4rec import Mamba4Rec
from selective_scan import implementations

MODELS: dict[str, Callable[..., SequenceModel]] = {
    "echomamba4rec": EchoMamba4Rec,
    "mamba4rec": Mamba4Rec,
}


def build_model(config: Config, num_items: int) -> SequenceModel:
    """Return the model that ``config`` names, with initial values drawn from ``config.seed``."""
    sizes: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("width", "layers", "state_size", "conv_width", "expand", "dropout", "max_len")
    }
    if config.model == "echomamba4rec":
        sizes["mends"] = mends(config)
    rngs = nnx.Rngs(config.seed)
    return MODELS[config.model](num_items, scan=config.scan, rngs=rngs, **sizes)


def mends(config: Config) -> Mends:
    """Return the variant's mends with the switches that ``config`` sets itself."""
    names = [field.name for field in dataclasses.fields(Mends)]
    switched = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return dataclasses.replace(VARIANTS[config.variant], **switched)


def check_names(config: Config) -> None:
    """Raise ``UserError`` where model or scan are unknown or cannot run on this machine."""
    if config.model not in MODELS:
        raise unknown_name("--model", config.model, list(MODELS))
    scans = implementations()
    if config.scan != "auto" and config.scan not in scans:
        raise unknown_name("--scan", config.scan, ["auto", *scans])
    if (reason := scans.get(config.scan)) is not None:
        raise UserError(f"--scan {config.scan} cannot run here: {reason}")
