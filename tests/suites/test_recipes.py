"""Recipes: those that come along, and what is said of bad ones."""

import dataclasses

import pytest

from echojax.commands.train import read_command_line
from echojax.config import Config
from echojax.models import HEURISTICS, MODELS
from echojax.recipes import read_recipe, read_tried
from echojax.suites.runs import plan
from echojax.suites.suite_file import find_suite, read_suite
from echojax.training.builders import resolved
from tests.conftest import refused

TABLES = ["ml-100k", "ml-1m", "amazon-beauty"]


@pytest.mark.parametrize("data", TABLES)
def test_the_best_recipe_is_the_row_of_the_table(data, tmp_path):
    """Of every model of the data set's suite, the recipe gives the configuration of its row."""
    runs = plan(read_suite(find_suite(data)), tmp_path, None)
    rows = {run.variant: run for run in runs if not run.global_time}
    for model in (*MODELS, *HEURISTICS):
        config = Config(dataset=data, model=model, **read_recipe("best", model, data))
        row = dataclasses.replace(rows[model].config, seed=0, run_dir=None)
        assert resolved(config) == resolved(row)


def test_a_recipe_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 3\ndropout = 0.1\n[sasrec]\ndropout = 0.2\n[hstu]\n")
    assert read_recipe(str(path), "sasrec", None) == {"epochs": 3, "dropout": 0.2}
    assert read_recipe(str(path), "hstu", "ml-1m") == {"epochs": 3, "dropout": 0.1}
    path.write_text("[sasrec]\nlayers = 2\ntried = [{ layers = 1, score = 0.1 }, {}]\n[hstu]\n")
    assert read_recipe(str(path), "sasrec", None) == {"layers": 2}
    assert read_tried(str(path), "sasrec", None) == [{"layers": 1, "score": 0.1}, {}]
    assert read_tried(str(path), "hstu", None) is None


def test_a_variant_may_have_a_recipe_of_its_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[echomamba4rec]\nepochs = 3\n[echomamba4rec-causal]\nbatch_size = 8\n")
    words = ["--dataset", "ml-100k", "--recipe", str(path), "--model", "echomamba4rec"]
    assert read_command_line(words).epochs == 3
    assert read_command_line([*words, "--variant", "official"]).epochs == 3
    causal = read_command_line([*words, "--variant", "causal"])
    assert (causal.epochs, causal.batch_size) == (Config.epochs, 8)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no recipe, as [hstu]; write one"),
        ("[sasrec]", "is for other models than hstu (sasrec); leave it out, or name one of these"),
        ("[hstu]\nepoch = 3", "mine.toml, [hstu]: unknown flag 'epoch'; did you mean 'epochs'"),
        ("epochs = 3.5\n[hstu]", "mine.toml: epochs must be a whole number, not 3.5"),
        ('loss = ""\n[hstu]', "mine.toml: loss has an empty value"),
        ("[hstuu]", "mine.toml: unknown model 'hstuu'; did you mean 'hstu'"),
        ("[hstu]\nseed = 1", "seed has no place in a recipe; give it on the command line"),
        ('dataset = "ml-1m"\n[hstu]', "dataset has no place in a recipe"),
        ("[hstu]\ntried = 3", "mine.toml, [hstu]: tried must list trials, as ["),
        ("[hstu]\ntried = [{ epoch = 3 }]", "[hstu], tried: unknown flag 'epoch'"),
        ("[hstu]\ntried = [{ score = 2 }]", "[hstu], tried: score must be an NDCG from 0 to 1"),
        ("[hstu", "mine.toml cannot be read as TOML"),
        (None, "--recipe"),
    ],
)
def test_bad_recipes_are_refused_in_one_line(text, says, tmp_path):
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    with refused(says, str(path)):
        read_recipe(str(path), "hstu", "ml-1m")


@pytest.mark.parametrize(("data", "words"), [("synthetic", "--dataset synthetic"), (None, "own")])
def test_there_is_no_best_recipe_for_other_data(data, words):
    with refused("there is none for ", f"{words}, only for ama"):
        read_recipe("best", "hstu", data)
