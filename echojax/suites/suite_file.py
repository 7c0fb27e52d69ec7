"""The TOML file of a suite (data sets x variants x seeds), checked before anything runs."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from echojax.config import KINDS, Config, flag
from echojax.errors import UserError, unknown_name
from echojax.recipes import (
    TRIED,
    Flags,
    check_flags,
    check_tried,
    read_recipe,
    read_toml,
    read_tried,
)

FOLDER = Path(__file__).parent / "included"
# A name becomes a folder. A $ would let a line feed follow.
_Tables = dict[Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")], Flags]


class Tuning(Struct):
    """A search for a variant's flags, as in ``results.json`` under ``tuning``."""

    trials: int  # the number of trials
    failed: int  # the number of trials that diverged, or whose values do not go together
    epochs: float  # of all trials
    seconds: float  # of training, of all trials
    score: float  # best validation NDCG@10
    found: Flags  # the flags of the best trial
    space: dict[str, Flags]  # what was searched
    tried: list[Flags]  # flags and score of each trial


class GlobalTime(Struct, forbid_unknown_fields=True):
    """Which variants are trained on a global time split too, and on which data sets."""

    datasets: list[str] = []
    variants: list[str] = []


class Suite(Struct, kw_only=True):
    """The content of a suite's file, checked, and what searches have found."""

    name: str = ""  # the file's name without its suffix
    text: str = ""  # the text of the file, for the page
    title: str = ""  # of the page
    about: str = ""  # a sentence or two below the title
    # Each variant is trained with each seed.
    seeds: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [0]
    )
    reference: str  # the variant that all others are tested against
    # "best" or a file: flags by model (``echojax.recipes``), which all others override.
    recipe: str | None = None
    flags: Flags = {}  # of every run; those of data set and variant override them
    # By the name of a data set, the flags of every run on it, which say what data it is.
    datasets: Annotated[_Tables, Meta(min_length=1)]
    # The number of users that are drawn from a data set; the others are used whole.
    sample_users: dict[str, int] = {}
    # The variants of the main table: flags that override the data set's, the model among them.
    variants: Annotated[_Tables, Meta(min_length=1)]
    # Variants that differ from the reference only in what the file lists; with all their flags.
    ablation: _Tables = {}
    # What was tried for variants whose flags are not only those of the recipe.
    tried: dict[str, list[Flags]] = {}
    # By data set and variant what a search found, whose flags override all others.
    tuned: dict[tuple[str, str], Tuning] = {}
    # What is trained on a global time split too, with the first seed.
    global_time: GlobalTime = msgspec.field(default_factory=GlobalTime)

    def known(self, names: Iterable[str]) -> set[str]:
        """Return names of variants as a set; ``UserError`` if one is not known."""
        known = [*self.variants, *self.ablation]
        for name in names:
            if name not in known:
                raise unknown_name("variant in --only", name, known)
        return set(names)


_NO_KEYS = ("name", "text", "sample_users", TRIED, "tuned")
_OF_RECIPES = {"dataset", "model", "variant"}  # flags that say which recipe it is
_KEYS = [one for one in Suite.__struct_fields__ if one not in _NO_KEYS]


def find_suite(given: str) -> Path:
    """Return the file of a suite, which is given by its path or by the name of an included one."""
    if given.endswith(".toml") or "/" in given:
        return Path(given)
    names = sorted(path.stem for path in FOLDER.glob("*.toml"))
    if given not in names:
        raise unknown_name("suite in --suite", given, names)
    return FOLDER / f"{given}.toml"


def read_suite(path: Path) -> Suite:
    """Read a suite."""
    text, content = read_toml(path, "--suite")
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{path}: {unknown_name('key', key, _KEYS)}")
    try:
        suite = msgspec.convert(content, Suite)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error} (the file is $)") from None
    suite.name, suite.text = path.stem, text
    suite.title = " ".join(suite.title.split()) or suite.name
    suite.about = " ".join(suite.about.split())
    check_flags(suite.flags, f"{path}, [flags]")
    for name, flags in suite.datasets.items():
        where, users = f"{path}, [datasets.{name}]", flags.pop("sample_users", None)
        if "data_path" not in flags:
            flags.setdefault("dataset", name)
        elif users is not None:
            raise UserError(f"{where}: sample_users is for a named data set, not for a data_path")
        if users is not None:
            if type(users) is not int or users < 2:
                raise UserError(f"{where}: sample_users must be a whole number from 2, not {users}")
            suite.sample_users[name] = users
    for key in ("datasets", "variants", "ablation"):
        for name, flags in getattr(suite, key).items():
            if key != "datasets" and TRIED in flags:
                check_tried(trials := flags.pop(TRIED), f"{path}, [{key}.{name}]")
                suite.tried[name] = trials
            check_flags(flags, f"{path}, [{key}.{name}]")
    _check_names(suite, path)
    base = suite.variants[suite.reference]
    suite.ablation = {name: base | flags for name, flags in suite.ablation.items()}
    return suite


def _check_names(suite: Suite, path: Path) -> None:
    """Raise ``UserError`` if a name or a seed is given twice, or a name is not known."""
    if len(set(suite.seeds)) < len(suite.seeds):
        raise UserError(f"{path}: seeds must differ, not {suite.seeds}")
    for name in suite.ablation.keys() & suite.variants.keys():
        raise UserError(f"{path}: [ablation.{name}] has the name of one of [variants]")
    timed, variants, datasets = suite.global_time, list(suite.variants), list(suite.datasets)
    for where, kind, names, known in (
        (path, "reference", [suite.reference], variants),
        (f"{path}, [global_time]", "name in variants", timed.variants, variants),
        (f"{path}, [global_time]", "name in datasets", timed.datasets, datasets),
    ):
        for name in names:
            if name not in known:
                raise UserError(f"{where}: {unknown_name(kind, name, known)}")


def flags_of(suite: Suite, dataset: str, variant: str) -> Flags:
    """Return the flags of a variant's runs on a data set, the recipe's among them."""
    flags = own_flags(suite, dataset, variant)
    tuning = suite.tuned.get((dataset, variant))
    found = tuning.found if tuning else {}
    if suite.recipe is None:
        return flags | found
    data = None if "data_path" in flags else flags["dataset"]
    recipe = read_recipe(suite.recipe, flags.get("model", Config.model), data, flags.get("variant"))
    return recipe | flags | found


def own_flags(suite: Suite, dataset: str, variant: str) -> Flags:
    """Return the flags that a suite itself has for a variant's runs on a data set."""
    return suite.flags | suite.datasets[dataset] | (suite.variants | suite.ablation)[variant]


def tried_of(suite: Suite, dataset: str, variant: str) -> list[Flags] | None:
    """Return what was tried for a variant; ``None`` if that is not known."""
    if tuning := suite.tuned.get((dataset, variant)):
        return tuning.tried
    own = own_flags(suite, dataset, variant)
    if variant in suite.tried or suite.recipe is None or own.keys() - _OF_RECIPES:
        return suite.tried.get(variant)
    model = own.get("model", Config.model)
    return read_tried(suite.recipe, model, own["dataset"], own.get("variant"))


def train_command(flags: Flags, seed: int) -> str:
    """Return the command that makes the same run by itself."""
    line = ["echojax", "train"]
    for name, kind in KINDS.items():
        value = (flags | {"seed": seed}).get(name)
        if value is None or (name == "dataset" and "data_path" in flags):
            continue
        if kind is bool:
            line.append(flag(name) if value else flag(f"no_{name}"))
        else:
            line += [flag(name), str(value)]
    return shlex.join(line)
