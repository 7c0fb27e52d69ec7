"""Suites: those that come along, and what is said of bad ones."""

import shlex
from pathlib import Path

import pytest

from echojax.command_line import parse
from echojax.config import Config
from echojax.suites.runs import plan
from echojax.suites.suite_file import FOLDER, find_suite, read_suite
from echojax.training.builders import resolved
from tests.conftest import refused
from tests.suites.conftest import SUITE

SUITES = sorted(FOLDER.glob("*.toml"))


def changed(old, new):
    assert old in SUITE
    return SUITE.replace(old, new, 1)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_suites_that_come_along_can_be_run(path, tmp_path):
    suite = read_suite(path)
    runs = plan(suite, tmp_path / "out", None)
    assert len({run.folder for run in runs}) == len(runs)
    first = [run for run in runs if run.seed == suite.seeds[0]]
    settings = {str(vars(resolved(run.config)) | {"run_dir": None}) for run in first}
    assert len(settings) == len(first)  # no variant repeats another


def test_the_suites_are_there():
    names = {"quick", "ml-100k", "ml-100k-smoothed", "ml-1m", "amazon-beauty", "causal"}
    assert {path.stem for path in SUITES} == names


def test_a_variant_overrides_the_data_set_which_overrides_the_common_flags(make_suite):
    text = changed("d_model = 8", "d_model = 8\nlearning_rate = 0.5").replace(
        "k_core = 2", "k_core = 2\nlearning_rate = 0.2\nmax_len = 7"
    )
    _, runs, _ = make_suite(text)
    of = {run.variant: run.config for run in runs}
    assert of["sasrec"].learning_rate == 0.5
    assert of["hstu"].learning_rate == 0.2
    assert of["hstu"].max_len == 7
    assert of["hstu"].data_path == "ring.inter"
    # An ablation is the reference with a switch.
    for name, flags in {"no-filter": {"filter"}, "layers-2": {"layers"}}.items():
        ours, theirs = vars(of["ours"]), vars(of[name])
        assert {key for key in ours if ours[key] != theirs[key]} - {"run_dir"} == flags


def test_the_command_of_a_variant_gives_its_configuration(make_suite):
    text = changed("d_model = 8", "d_model = 8\ndropout = 0")
    text = text.replace("[flags]", "[flags]\nexclude_seen = true")
    text = text.replace("filter = false", "filter = false\nmask_padding = false")
    _, runs, _ = make_suite(text)
    for run in runs:
        words = shlex.split(run.command)
        assert words[:2] == ["echojax", "train"]
        config = parse(Config, args=words[2:])
        assert vars(config) == {**vars(run.config), "run_dir": None}


BAD = [
    (changed("d_model = 8", "d_modle = 8"), "[variants.sasrec]: unknown flag 'd_modle'; did you"),
    (changed("learning_rate", "learning-rate"), "did you mean 'learning_rate'"),
    (changed("= 0.01", "= true"), "[flags]: learning_rate must be a number, not True"),
    (changed("k_core = 2", 'split = "random"'), "'leave-one-out' or 'global-time'"),
    (changed("k_core = 2", "seed = 2"), "seed has no place in a suite; list the seeds under"),
    (changed("[ablation.", "[abaltion."), "unknown key 'abaltion'; did you mean 'ablation'"),
    (changed("[0, 1, 2]", "[0, 0]"), "seeds must differ"),
    (changed("[0, 1, 2]", "[]"), "of length >= 1 - at `$.seeds`"),
    (changed('"ours"', '"hers"'), "unknown reference 'hers'; "),
    (changed("[variants.hstu]", '[variants."../hstu"]'), "matching regex"),
    (changed("[variants.hstu]", r'[variants."hstu\n"]'), "matching regex"),
    (changed("[flags]", "variants.odd = 3\n[flags]"), "Expected `object`, got `int` - at `$.var"),
    (changed("[ablation.layers-2]", "[ablation.hstu]"), "name of one of [variants]"),
    (changed("[datasets.ring]", "[variants.x]"), "missing required field `datasets`"),
    (
        changed('data_path = "ring.inter"', "sample_users = 1"),
        "[datasets.ring]: sample_users must be a whole number from 2, not 1",
    ),
    (changed("k_core = 2", "sample_users = 9"), "not for a data_path"),
    (SUITE + '[global_time]\nvariants = ["ous"]', "did you mean 'ours'"),
    (SUITE + '[global_time]\ndatasets = ["rings"]', "did you mean 'ring'"),
    ("seeds = [", "cannot be read as TOML"),
    (changed('title = "Two', 'title = 2 #"'), "Expected `str`, got `int` - at `$.title`"),
]


@pytest.mark.parametrize(("text", "says"), BAD)
def test_bad_suites_are_refused_in_one_line(text, says, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with refused(says, str(path)):
        read_suite(path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"hstu"', '"hsut"', "byhand.toml, variant hstu on ring: unknown --model 'hsut'"),
        ('"hstu"', '"hstu"\nwindow = 3', "--window has no meaning for --model hstu"),
        ('"hstu"', '"hstu"\nlags = 3', "--lags has no meaning for --model hstu"),
        ('"popularity"', '"popularity"\nlags = 3', "--lags has no meaning for --model popularity"),
        ('"hstu"', '"hstu"\nexclude_seen = true', "--exclude-seen True, and False for the ref"),
        ('"hstu"', '"hstu"\ndataset = "ml-1m"', "ranking: move it to [datasets.ring]"),
        ("layers = 2", 'split = "global-time"', "variant layers-2 on ring: --split global-"),
        ("layers = 2", "layers = 0", "variant layers-2 on ring: --layers must be at least 1"),
        ("[flags]", 'recipe = "best"\n[flags]', "--recipe best: there is none for a file of your"),
    ],
)
def test_variants_that_no_run_can_have(old, new, says, make_suite):
    with refused(says):
        make_suite(changed(old, new))


def test_suites_are_found_by_name_or_path():
    assert find_suite("quick") == FOLDER / "quick.toml"
    assert find_suite("mine.toml") == Path("mine.toml")
    with refused("did you mean 'ml-100k'"):
        find_suite("ml-10k")
    with refused("no such file"):
        read_suite(Path("none/here.toml"))
