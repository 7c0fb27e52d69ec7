"""The configuration of a run: all flags as one object, with checks and conversions."""

import dataclasses
import os
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from echojax.errors import UserError, unknown_name
from echojax.flags import (
    FINITE,
    DataFlags,
    EvaluationFlags,
    Fact,
    ModelFlags,
    NotInSuites,
    RunFlags,
    TrainingFlags,
)

ModelOption = bool | int | float | str | None


# A dataclass has the fields of its last base first.
@dataclass(frozen=True)
class Config(RunFlags, EvaluationFlags, TrainingFlags, ModelFlags, DataFlags):
    """Train a sequential recommender, evaluate it by full ranking, leave a run folder.

    Without --dataset and --data-path it is the quickstart: generated data, learning rate 0.003, no
    dropout, 2 epochs.
    """

    model_options: dict[str, ModelOption] = dataclasses.field(default_factory=dict)
    """The model's own options: further arguments of its constructor, each of which is a flag."""


def _facts_of(kind: Any) -> Iterator[Any]:
    """Yield the metadata of ``Annotated`` in a field's type, inside a union too."""
    if typing.get_origin(kind) is Annotated:
        yield from kind.__metadata__
        kind = kind.__origin__
    for one in typing.get_args(kind):
        yield from _facts_of(one)


@cache
def _facts_of_fields(flags: type) -> dict[str, list[Any]]:
    """Return the metadata of ``Annotated`` at each field of a dataclass, by the field's name."""
    kinds = typing.get_type_hints(flags, include_extras=True)
    return {name: list(_facts_of(kind)) for name, kind in kinds.items()}


QUICKSTART = Config(learning_rate=3e-3, dropout=0.0, epochs=2)
SEARCH_EPOCHS = 30  # of the longest trials of a search; most stop early


def default_config(given: Mapping[str, Any]) -> Config:
    """Return the values of options that are not given.

    They are those of the run that is resumed, if ``resume`` and ``run_dir`` are given; else those
    of the quickstart, unless ``dataset`` or ``data_path`` is given.
    """
    if given.get("resume") and given.get("run_dir"):
        folder = Path(given["run_dir"])
        if (folder / "config.json").exists():
            from echojax.training.run_folder import read_config  # takes seconds; imports this

            return dataclasses.replace(read_config(folder), profile=None)
    return Config() if {"dataset", "data_path"} & given.keys() else QUICKSTART


def search_config(given: Mapping[str, Any]) -> Config:
    """Return the values of options that are not given to a search."""
    config = default_config(given)
    return config if config is QUICKSTART else dataclasses.replace(config, epochs=SEARCH_EPOCHS)


KINDS: dict[str, Any] = typing.get_type_hints(Config)  # the type of each field
_FACTS = _facts_of_fields(Config)
MODEL_SIZES, RESUMABLE = (
    {name for name, facts in _FACTS.items() if fact in facts}
    for fact in (Fact.MODEL_SIZE, Fact.RESUMABLE)
)
# The flags of the model and of its training.
OF_TRAINING = [
    field.name for one in (ModelFlags, TrainingFlags) for field in dataclasses.fields(one)
]
NOT_IN_SUITES: dict[str, str] = {
    name: fact.instead
    for name, facts in _FACTS.items()
    for fact in facts
    if isinstance(fact, NotInSuites)
}


# Flags that limit how long a run trains; for a finished run they can only grow.
LIMITS = ("epochs", "max_steps", "patience")


def check_limits(flags: Any) -> None:
    """Raise ``UserError`` where a field of a dataclass of flags is outside its type's limits.

    The limits of a tuple's type are those of its values.
    """
    for name, facts in _facts_of_fields(flags.__class__).items():
        found = getattr(flags, name)
        values = found if isinstance(found, tuple) else (found,) if found is not None else ()
        for limits in facts:
            for value in values if isinstance(limits, Meta) else ():
                if not _within(value, limits):
                    raise UserError(f"{flag(name)} must be {_range(limits)}, not {value}")


def check(config: Config) -> None:
    """Raise ``UserError`` for a value that no run can have, naming the flag."""
    check_limits(config)
    if config.seed + config.seeds > 2**32:
        raise UserError(f"--seeds {config.seeds}: seeds end at {2**32 - 1}; give a smaller --seed")
    if config.batch_size and config.microbatch and config.batch_size % config.microbatch:
        raise UserError(
            f"--batch-size {config.batch_size} is not a multiple of "
            f"--microbatch {config.microbatch}; change one of them"
        )
    if config.parallel == "pmap" and config.item_shards * config.sequence_shards > 1:
        raise UserError("--parallel pmap spreads rows only; leave it out with shards")
    if config.pack and (config.loss != "softmax" or config.sequence_shards > 1):
        other = "--sequence-shards" if config.loss == "softmax" else f"--loss {config.loss}"
        raise UserError(f"--pack is not for {other}; leave one of them out")
    if config.warmup and config.warmup_steps:
        raise UserError("--warmup and --warmup-steps say the same; leave one out")
    if config.schedule == "cosine" and config.decay_steps:
        raise UserError("--schedule cosine and --decay-steps exclude each other; leave one out")
    meaningless = ["gbce_t"] if config.loss != "gbce" else []
    meaningless += ["negatives", "negative_sampling"] if config.loss == "softmax" else []
    for name in meaningless:
        if getattr(config, name) is not None:
            raise UserError(f"{flag(name)} has no meaning for --loss {config.loss}; leave it out")
    if config.item_vectors_use == "replace" and config.item_vectors is None:
        raise UserError("--item-vectors-use replace has no meaning without --item-vectors")
    if config.time_gaps and config.split == "cold-items":
        raise UserError(
            "--time-gaps is not for --split cold-items, which takes events out; drop one of them"
        )
    if config.label_smoothing and config.loss != "softmax":
        raise UserError(f"--label-smoothing is for --loss softmax, not for {config.loss}")


def misfit(kind: Any, value: Any) -> str | None:
    """Return "must be a number, not 'x'" for a JSON or TOML value that is not of a type."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return f"must be {_words(kind)}, not {value!r:.80}"
    if isinstance(value, str):
        try:
            odd = b"\0" in os.fsencode(value)
        except UnicodeError:
            odd = True
        if odd:
            return f"must be text that can be a name, not {value!r:.80}"
    return None


def emptiness(name: str, value: Any) -> str | None:
    """Return "has an empty value; ..." for empty text that a flag, with or without --, cannot have.

    A path would be the folder at hand, and other flags would be as if they were not given. A
    history may be empty, and so may the name of a column.
    """
    if value != "" or name.endswith(("history", "column")):
        return None
    return "has an empty value; give one, or leave it out"


def from_values(
    values: Mapping[str, Any], own: Mapping[str, tuple[Any, Any]], file: str | None = None
) -> dict[str, Any]:
    """Return values from JSON, TOML or Python, by name, as arguments of ``Config``.

    The model's own options may be among them; ``own`` has the type and the default of each.
    ``file`` is where the values come from, for errors.
    """
    fields: dict[str, Any] = {}
    options: dict[str, ModelOption] = {}
    for name, value in values.items():
        if name not in own and name not in KINDS:
            raise unknown_name(f"flag in {file}" if file else "option", name, [*KINDS, *own])
        kind = own[name][0] if name in own else KINDS[name]
        if problem := misfit(kind, value) or emptiness(name, value):
            raise UserError(f"{f'{file}: {name}' if file else flag(name)} {problem}")
        (options if name in own else fields)[name] = msgspec.convert(value, kind)
    if options:
        fields["model_options"] = fields.get("model_options", {}) | options
    return fields


def with_fields(config: Config, fields: Mapping[str, Any]) -> Config:
    """Return ``config`` with other values; the model's own options are merged with the given."""
    options = config.model_options | fields.get("model_options", {})
    return dataclasses.replace(config, **{**fields, "model_options": options})


def flag(name: str) -> str:
    """Return the command-line flag of a field."""
    return "--" + name.replace("_", "-")


def as_dict(config: Config) -> dict[str, Any]:
    """Return the fields as plain JSON values."""
    return dataclasses.asdict(config)


def as_flags(config: Config) -> dict[str, Any]:
    """Return all values by name, including the model's own options."""
    values = as_dict(config)
    options = values.pop("model_options")
    return values | options


def _within(value: float, limits: Meta) -> bool:
    pairs = ((ge, limits.ge), (gt, limits.gt), (le, limits.le), (lt, limits.lt))
    return all(limit is None or holds(value, limit) for holds, limit in pairs)


def _range(limits: Meta) -> str:
    if limits.ge is not None and limits.le is not None:
        return f"between {limits.ge} and {limits.le}"
    words = {"at least": limits.ge, "above": limits.gt, "at most": limits.le, "below": limits.lt}
    given = [f"{word} {limit}" for word, limit in words.items() if limit is not None]
    return " and ".join(given).replace(f"at most {FINITE}", "finite")


def _words(kind: Any) -> str:
    """Return the values of a type in words."""
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) is dict:
        return "a table"
    if plain := [one for one in typing.get_args(kind) if one is not types.NoneType]:
        return " or ".join(map(_words, plain))
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[kind]
