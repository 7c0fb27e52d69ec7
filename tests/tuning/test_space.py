"""Spaces: where they come from, and what is said of bad ones."""

import numpy as np
import pytest

from echojax.config import Config
from echojax.models import MODELS
from echojax.training.builders import resolved
from echojax.tuning.space import Choices, Range, check_space, find_space
from tests.conftest import refused


def config_of(model="sasrec", **flags):
    return resolved(Config(dataset="ml-100k", model=model, **flags))


@pytest.mark.parametrize("model", MODELS)
def test_the_default_space_is_for_every_model(model):
    space = find_space(config_of(model), file=None, recipe=None)
    assert space["learning_rate"] == Range(3e-4, 1e-2, log=True)
    assert {"dropout", "weight_decay"} < space.keys()


def test_a_recipe_file_has_spaces_and_a_model_changes_its_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "epochs = 3\n[space]\ndropout = {low = 0, high = 0.5}\nd_model = {low = 8, high = 16}\n"
        "[sasrec.space]\nd_model = {choices = [8, 16]}\n[hstu]\ndropout = 0.1\n"
    )
    for given in ({"file": str(path), "recipe": None}, {"file": None, "recipe": str(path)}):
        space = find_space(config_of(), **given, fixed=["layers"])
        assert space == {"dropout": Range(0.0, 0.5), "d_model": Choices([8, 16])}
    space = find_space(config_of("hstu"), file=str(path), recipe=None, fixed=["dropout"])
    assert space == {"d_model": Range(8, 16)}
    assert type(space["d_model"].low) is int
    path.write_text("[sasrec]\n")
    with refused("mine.toml has no [space] for sasrec"):
        find_space(config_of(), file=str(path), recipe=None)
    path.write_text("space = 3\n[sasrec]\n")
    with refused("space must be a table, not 3"):
        find_space(config_of(), file=str(path), recipe=None)


@pytest.mark.parametrize(
    ("name", "entry", "says"),
    [
        ("d_state", {"choices": [1, 2]}, "--d-state has no meaning for --model sasrec"),
        ("filter", {"choices": [True, False]}, "--filter has no meaning for --model sasrec"),
        ("dropot", {"low": 0, "high": 0.5}, "did you mean 'dropout'"),
        ("seed", {"low": 0, "high": 5}, "seed cannot be searched; give it as a flag"),
        ("run_dir", {"choices": ["a", "b"]}, "run_dir cannot be searched"),
        ("epochs", {"low": 1, "high": 5}, "epochs cannot be searched"),
        ("exclude_seen", {"choices": [True, False]}, "exclude_seen cannot be searched"),
        ("dropout", {"low": 0, "high": 1}, "--dropout must be at least 0 and below 1, not 1.0"),
        ("dropout", {"low": 0.5, "high": 0.1}, "low must be below high, not 0.5 and 0.1"),
        ("dropout", {"low": float("nan"), "high": 0.1}, "low must be below high"),
        ("learning_rate", {"low": 0.1, "high": float("inf")}, "above 0 and finite, not inf"),
        ("weight_decay", {"low": 0, "high": 0.1, "log": True}, "with log, low must be above 0"),
        ("layers", {"low": 1.0, "high": 3}, "--layers must be a whole number, not 1.0"),
        ("layers", {"low": 1}, "must be {low, high}"),
        ("layers", {"low": 1, "high": 3, "step": 1}, "contains unknown field `step`"),
        ("layers", 3, "must be {low, high}"),
        ("layers", {"low": object(), "high": 3}, "(a value of type object)"),
        ("layers", {"choices": [2]}, "choices must be two or more that differ, not [2]"),
        ("heads", {"choices": [1, 3]}, "--heads 3 does not divide --d-model 64"),
        ("precision", {"choices": ["float32", "bf17"]}, "must be 'float32' or 'bf16', not 'bf17'"),
    ],
)
def test_a_bad_space_is_refused_in_one_line(name, entry, says):
    with refused("mine.toml: ", says):
        check_space({name: entry}, config_of(), "mine.toml")


def test_values_of_numpy_are_those_of_python():
    numpys = {"low": np.float32(0.25), "high": np.float64(0.5)}, {"choices": np.arange(1, 3)}
    pythons = {"low": 0.25, "high": 0.5}, {"choices": [1, 2]}
    names = ("dropout", "layers")
    spaces = [
        check_space(dict(zip(names, both, strict=True)), config_of(), "")
        for both in (numpys, pythons)
    ]
    assert spaces[0] == spaces[1]


def test_something_is_left_to_search():
    space = {"dropout": {"low": 0.0, "high": 0.5}}
    with refused("nothing to search; leave one of --dropout out"):
        check_space(space, config_of(), "mine.toml", fixed=["dropout"])
    with refused("popularity is not trained: there is nothing to search"):
        check_space(space, config_of("popularity"), "mine.toml")


def test_a_variant_has_the_space_of_its_own_table(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[echomamba4rec.space]\ndropout = {low = 0, high = 0.5}\n"
        "[echomamba4rec-causal.space]\nd_state = {choices = [8, 16]}\n"
    )
    plain, causal = (config_of("echomamba4rec", variant=one) for one in ("echojax", "causal"))
    assert find_space(plain, file=str(path), recipe=None) == {"dropout": Range(0.0, 0.5)}
    assert find_space(causal, file=str(path), recipe=None) == {"d_state": Choices([8, 16])}
