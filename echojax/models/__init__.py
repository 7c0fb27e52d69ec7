"""Models, one file each, with one interface (``SequenceModel``)."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union

from flax import nnx

from echojax.config import MODEL_SIZES, Config, flag, misfit
from echojax.errors import UserError, unknown_name
from echojax.models.attention import check_heads
from echojax.models.base import CausalModel, LayeredModel, SequenceModel
from echojax.models.bert4rec import BERT4Rec
from echojax.models.caser import Caser
from echojax.models.echomamba4rec import (
    VARIANTS,
    Components,
    Corrections,
    EchoMamba4Rec,
    check_time_gaps,
    not_causal,
)
from echojax.models.esasrec import ESASRec
from echojax.models.fmlprec import FMLPRec
from echojax.models.gru4rec import GRU4Rec
from echojax.models.heuristic import HeuristicModel, ItemKNN, LaggedCount, Markov, Popularity
from echojax.models.hstu import HSTU
from echojax.models.mamba4rec import Mamba4Rec
from echojax.models.narm import NARM
from echojax.models.sasrec import SASRec
from echojax.plugins import check_new_name
from selective_scan import implementations

__all__ = [
    "HEURISTICS",
    "MODELS",
    "CausalModel",
    "SequenceModel",
    "build_model",
    "check_names",
    "check_parts",
    "check_sequence_shards",
    "own_options",
    "register_model",
    "with_sizes",
]

MODELS: dict[str, type[SequenceModel]] = {
    "echomamba4rec": EchoMamba4Rec,
    "mamba4rec": Mamba4Rec,
    "sasrec": SASRec,
    "bert4rec": BERT4Rec,
    "fmlp-rec": FMLPRec,
    "hstu": HSTU,
    "esasrec": ESASRec,
    "gru4rec": GRU4Rec,
    "narm": NARM,
    "caser": Caser,
}

# Non-learned baselines: fitted in one pass, without sizes, objectives or seeds.
HEURISTICS: dict[str, type[HeuristicModel]] = {
    "popularity": Popularity,
    "markov": Markov,
    "item-knn": ItemKNN,
    "lagged-count": LaggedCount,
}

OURS = (*MODELS, *HEURISTICS)
_HEURISTIC_SIZES = ("lags", "damping")
# Flags that reach a model together, as one argument of its constructor.
_TOGETHER = {
    "corrections": ["variant", *(field.name for field in dataclasses.fields(Corrections))],
    "components": [field.name for field in dataclasses.fields(Components)],
}
_FIELDS = [field.name for field in dataclasses.fields(Config)]
_GIVEN = ("num_items", "rngs")  # arguments of every constructor
# Flags of the command and arguments of ``echojax.train`` that are not fields of ``Config``.
_TAKEN = ("config", "recipe", "help", "data", "user", "item", "time", "callbacks", "quiet")
_METHODS: dict[type[SequenceModel], str] = {
    CausalModel: "read_all",
    LayeredModel: "embed",
    SequenceModel: "read_out",
}
M = TypeVar("M", bound=type[SequenceModel])


def register_model(name: str) -> Callable[[M], M]:
    """Register a class as a model under a name, for ``--model`` and ``echojax.train``.

    Arguments of its constructor that are fields of ``Config`` (``d_model``, ``layers``,
    ``dropout``, ``max_len`` and so on) get the values of those flags. All other arguments of type
    bool, int, float or str become flags of this model, with their types and defaults.

    Args:
        name: Letters, digits, and ``. _ -``. Registering a name again replaces its class.

    Raises:
        UserError: The name belongs to echojax itself, the class is no ``SequenceModel`` or lacks a
            method, or its constructor has an argument that cannot be a flag, or is one already.
    """
    check_new_name("model", name, OURS)

    def register(model: M) -> M:
        if not (isinstance(model, type) and issubclass(model, SequenceModel)):
            raise UserError(f"model {name!r} is no subclass of SequenceModel")
        for base, method in _METHODS.items():
            if issubclass(model, base) and getattr(model, method) is getattr(base, method):
                raise UserError(
                    f"model {name!r} has no method {method!r}, as a {base.__name__} has"
                )
        parameters = _parameters(model)
        for one in _GIVEN:
            if one not in parameters:
                raise UserError(f"model {name!r}: its constructor has no argument {one!r}")
        own = own_options(model)
        known = [*_GIVEN, *_FIELDS, *own]
        for one, parameter in parameters.items():
            if one in own and one in _TAKEN:
                raise UserError(
                    f"model {name!r}: {one!r} means something else to train; give this argument of "
                    "its constructor another name"
                )
            if one not in known and parameter.default is parameter.empty:
                raise UserError(
                    f"model {name!r}: the argument {one!r} of its constructor has no default, and "
                    "is no bool, int, float or str with that annotation"
                )
        MODELS[name] = model
        return model

    return register


def own_options(model: type[SequenceModel]) -> dict[str, tuple[Any, Any]]:
    """Return the arguments of a model's constructor that are not fields of ``Config``, by name.

    Returns:
        The type of each argument, and its default (``inspect.Parameter.empty`` if it has none).
    """
    try:
        hints = typing.get_type_hints(model.__init__)
    except NameError:  # an annotation is imported for type checkers only
        hints = {}
    options = {}
    for name, parameter in _parameters(model).items():
        kind = hints.get(name, type(parameter.default))
        if name not in (*_GIVEN, *_FIELDS) and _is_plain(kind):
            options[name] = kind, parameter.default
    return options


def _is_plain(kind: Any) -> bool:
    """Return whether values of a type can be written on a command line and in JSON."""
    if typing.get_origin(kind) is Literal:
        return True
    if typing.get_origin(kind) in (Union, types.UnionType):
        return all(one is types.NoneType or _is_plain(one) for one in typing.get_args(kind))
    return kind in (bool, int, float, str)


def build_model(config: Config, num_items: int) -> SequenceModel:
    """Return the model that ``config`` names, with initial values drawn from ``config.seed``."""
    given: dict[str, Any] = dataclasses.asdict(config)
    given["corrections"], given["components"] = _variant(config)
    model = MODELS[config.model]
    options = {name: given[name] for name in _parameters(model) if given.get(name) is not None}
    options |= config.model_options
    return model(num_items, **options, rngs=nnx.Rngs(config.seed))


def with_sizes(config: Config) -> Config:
    """Return ``config`` with the model's default for each size that is not given.

    Raises:
        UserError: A size is given that the model does not have, or that does not fit the others, or
            an objective that the model cannot be trained with.
    """
    config = with_own_options(config)
    if config.time_gaps:
        _check_able("--time-gaps", config, lambda model: "time_gaps" in _parameters(model))
        if config.model == "echomamba4rec":
            check_time_gaps(*_variant(config), config.d_conv or 4)
    if config.pack:
        _check_able("--pack", config, lambda model: model.packs)
    known = _parameters((MODELS | HEURISTICS)[config.model])
    # The sizes in a suite apply to all its models, also to heuristic ones, which have no others.
    for name in MODEL_SIZES if config.model in MODELS else _HEURISTIC_SIZES:
        # A size is never 0; a dropout of 0 may also be given to a model without dropout.
        if getattr(config, name) and name not in known:
            raise _no_meaning(name, config.model)
    if config.model in HEURISTICS:
        return config
    own = {name: known[name].default for name in MODEL_SIZES if name in known}
    objectives = _objectives(config)
    objective = config.objective or objectives[0]
    if objective not in objectives:
        raise UserError(
            f"--objective {objective} is not for --model {config.model}, which takes "
            f"{' or '.join(objectives)}"
        )
    sizes = {name: getattr(config, name) for name in own if getattr(config, name) is not None}
    config = dataclasses.replace(config, objective=objective, **(own | sizes))
    if config.pack and objective != "all-positions":
        raise UserError(f"--pack is for --objective all-positions, not for {objective}")
    if config.heads is not None and config.d_model is not None:
        check_heads(config.heads, config.d_model)
    return config


def _no_meaning(name: str, model: str) -> UserError:
    return UserError(f"{flag(name)} has no meaning for --model {model}; leave it out")


def with_own_options(config: Config) -> Config:
    """Return ``config`` with the default of each of the model's own options that is not given.

    Raises:
        UserError: An option is given that the model does not have, a value does not fit its type,
            or one without a default is missing.
    """
    own = own_options(MODELS[config.model]) if config.model in MODELS else {}
    for name in config.model_options:
        if name not in own:
            raise _no_meaning(name, config.model)
    values = {}
    for name, (kind, default) in own.items():
        values[name] = config.model_options.get(name, default)
        if values[name] is inspect.Parameter.empty:
            raise UserError(f"--model {config.model} needs {flag(name)}; give one")
        if problem := misfit(kind, values[name]):
            raise UserError(f"{flag(name)} {problem}")
    return dataclasses.replace(config, model_options=values)


def _objectives(config: Config) -> tuple[str, ...]:
    """Return the objectives that the model can be trained with, its default first."""
    objectives = MODELS[config.model].objectives
    if config.model != "echomamba4rec":
        return objectives
    reason = not_causal(*_variant(config), config.layers or 1)
    if reason is None:
        return objectives[::-1] if config.variant == "causal" else objectives
    if config.objective == "all-positions":
        raise UserError(f"--objective all-positions is not for this EchoMamba4Rec: {reason}")
    return ("prefixes",)


def _check_able(
    option: str, config: Config, is_able: Callable[[type[SequenceModel]], bool]
) -> None:
    """Raise ``UserError``, naming the models that have an option, if this one does not."""
    able = [name for name, model in MODELS.items() if is_able(model)]
    if config.model not in able:
        names = f"{', '.join(able[:-1])} and {able[-1]}" if able[1:] else able[0]
        raise UserError(f"{option} is for {names}, not for --model {config.model}")


def _variant(config: Config) -> tuple[Corrections, Components]:
    """Return the variant's corrections, with the changes of ``config``, and what a layer keeps."""
    names = [field.name for field in dataclasses.fields(Corrections)]
    switched = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    corrections = dataclasses.replace(VARIANTS[config.variant], **switched)
    return corrections, Components(config.filter, config.backward, config.glu)


def check_names(config: Config) -> None:
    """Raise ``UserError`` if the model or the scan is unknown, or the scan cannot run here."""
    if config.model not in MODELS and config.model not in HEURISTICS:
        raise unknown_name("--model", config.model, [*MODELS, *HEURISTICS])
    scans = implementations()
    if config.scan != "auto" and config.scan not in scans:
        raise unknown_name("--scan", config.scan, ["auto", *scans])
    if (reason := scans.get(config.scan)) is not None:
        raise UserError(f"--scan {config.scan} cannot run here: {reason}")


def check_parts(config: Config) -> None:
    """Raise ``UserError`` if a variant or a part of a layer is chosen that the model lacks."""
    if config.model in HEURISTICS:
        return
    known = _parameters(MODELS[config.model])
    for argument, names in _TOGETHER.items():
        for name in names:
            changed = getattr(config, name) != getattr(Config, name)
            if changed and not {argument, name} & known.keys():
                raise _no_meaning(name, config.model)


def check_sequence_shards(config: Config) -> None:
    """Raise ``UserError`` if histories cannot be split into these shards."""
    if config.sequence_shards == 1:
        return
    _check_able("--sequence-shards", config, lambda model: model.sequence_parallel)
    if config.loss != "softmax":
        raise UserError(f"--sequence-shards is for --loss softmax, not for {config.loss}")
    assert config.d_model is not None
    if config.d_model % config.sequence_shards:
        raise UserError(
            f"--sequence-shards {config.sequence_shards} must divide --d-model {config.d_model}: "
            "the filter gives each device all positions of some channels"
        )
    assert config.max_len is not None
    assert config.d_conv is not None
    if -(-config.max_len // config.sequence_shards) < config.d_conv - 1:
        raise UserError(
            f"--sequence-shards {config.sequence_shards} leaves too little of --max-len "
            f"{config.max_len}: a device needs {config.d_conv - 1} positions or more"
        )


def _parameters(model: type[SequenceModel] | type[HeuristicModel]) -> dict[str, inspect.Parameter]:
    """Return the named parameters of a constructor."""
    _, *parameters = inspect.signature(model.__init__).parameters.values()
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {one.name: one for one in parameters if one.kind not in rest}
