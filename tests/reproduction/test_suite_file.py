"""Suites: those that come along, and what is said of bad ones."""

import shlex
from pathlib import Path

import pytest

from echojax.command_line import parse
from echojax.config import Config
from echojax.errors import UserError
from echojax.models import HEURISTICS, MODELS
from echojax.reproduction.cells import plan
from echojax.reproduction.suite_file import find_suite, read_suite
from echojax.training.builders import resolved
from tests.conftest import ROOT
from tests.reproduction.conftest import SUITE

SUITES = sorted((ROOT / "experiments" / "suites").glob("*.toml"))


def changed(old, new):
    assert old in SUITE
    return SUITE.replace(old, new, 1)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_suites_that_come_along_can_be_run(path, tmp_path):
    suite = read_suite(path)
    rows = (*suite.rows, *suite.ablation)
    if missing := {row.flags["model"] for row in rows} - MODELS.keys() - HEURISTICS.keys():
        pytest.skip(f"no such models yet: {', '.join(sorted(missing))}")
    cells = plan(suite, tmp_path / "out", None)
    assert len({cell.folder for cell in cells}) == len(cells)
    first = [cell for cell in cells if cell.seed == suite.seeds[0]]
    settings = {str(vars(resolved(cell.config)) | {"run_dir": None}) for cell in first}
    assert len(settings) == len(first)  # no row repeats another


def test_the_suites_are_there():
    names = {"quick", "ml-100k", "ml-100k-smoothed", "ml-1m", "amazon-beauty"}
    assert {path.stem for path in SUITES} == names


def test_smoothing_is_all_that_sets_the_smoothed_suite_apart():
    plain, smoothed = (read_suite(ROOT / f"experiments/suites/ml-100k{end}.toml")
                       for end in ("", "-smoothed"))  # fmt: skip
    assert smoothed.flags == {**plain.flags, "label_smoothing": 0.1}
    learnt = [row for row in plain.rows if row.flags["model"] not in HEURISTICS]
    assert list(smoothed.rows) == learnt


def test_a_row_outdoes_the_data_set_which_outdoes_the_common_flags(make_suite):
    text = changed("d_model = 8", "d_model = 8\nlearning_rate = 0.5").replace(
        "k_core = 2", "k_core = 2\nlearning_rate = 0.2\nmax_len = 7"
    )
    _, cells, _ = make_suite(text)
    by_row = {cell.row: cell.config for cell in cells}
    assert by_row["sasrec"].learning_rate == 0.5
    assert by_row["hstu"].learning_rate == 0.2
    assert by_row["hstu"].max_len == 7
    assert by_row["hstu"].data_path == "ring.inter"


def test_ablations_are_the_reference_with_a_switch(make_suite):
    suite, cells, _ = make_suite()
    by_row = {cell.row: vars(cell.config) for cell in cells}
    differs = {
        row.name: {
            name
            for name, value in by_row[row.name].items()
            if value != by_row["ours"][name] and name not in ("run_dir",)
        }
        for row in suite.ablation
    }
    assert differs == {"no-filter": {"filter"}, "layers-2": {"layers"}}


def test_the_command_of_a_row_gives_its_configuration(make_suite):
    text = changed("d_model = 8", "d_model = 8\nexclude_seen = true\ndropout = 0")
    text = text.replace("filter = false", "filter = false\nmask_padding = false")
    _, cells, _ = make_suite(text)
    for cell in cells:
        words = shlex.split(cell.command)
        assert words[:2] == ["python", "experiments/train.py"]
        config = parse(Config, args=words[2:])
        ours = {**vars(cell.config), "run_dir": None}
        assert vars(config) == ours


BAD = {
    "flag": (
        changed("d_model = 8", "d_modle = 8"),
        "[rows.sasrec]: unknown flag 'd_modle'; did you",
    ),
    "common flag": (changed("learning_rate", "learning-rate"), "did you mean 'learning_rate'"),
    "whole number": (
        changed("d_model = 8", "d_model = 8.5"),
        "d_model must be a whole number, not 8.5",
    ),
    "truth": (changed("filter = false", "filter = 0"), "filter must be true or false, not 0"),
    "number": (changed("= 0.01", "= true"), "[flags]: learning_rate must be a number, not True"),
    "choice": (changed("k_core = 2", 'split = "random"'), "'leave-one-out' or 'global-time'"),
    "seed": (changed("k_core = 2", "seed = 2"), "seed has no place in a suite"),
    "data_dir": (changed("k_core = 2", 'data_dir = "."'), "use --data-dir"),
    "key": (changed("[ablation.", "[abaltion."), "unknown key 'abaltion'; did you mean 'ablation'"),
    "seeds": (changed("[0, 1, 2]", "[0, 0]"), "seeds must be different whole numbers"),
    "no seeds": (changed("[0, 1, 2]", "[]"), "seeds must be different whole numbers"),
    "seed words": (changed("[0, 1, 2]", '["one"]'), "seeds must be different whole numbers"),
    "reference": (changed('"ours"', '"hers"'), "reference must be the name of one of [rows]"),
    "row name": (changed("[rows.hstu]", '[rows."../hstu"]'), "must be of letters, digits"),
    "not a table": (changed("[flags]", "rows.odd = 3\n[flags]"), "[rows.odd] must be a table"),
    "ablation name": (changed("[ablation.layers-2]", "[ablation.hstu]"), "name of one of [rows]"),
    "no data": (changed("[datasets.ring]", "[rows.x]"), "[datasets] needs a table for each"),
    "sample": (changed("k_core = 2", "sample_users = 1"), "sample_users must be a whole number"),
    "sample of a file": (changed("k_core = 2", "sample_users = 9"), "not for a data_path"),
    "timed row": (SUITE + '[global_time]\nrows = ["ous"]', "did you mean 'ours'"),
    "timed data": (SUITE + '[global_time]\ndatasets = ["rings"]', "did you mean 'ring'"),
    "TOML": ("seeds = [", "cannot be read as TOML"),
    "empty": ("", "[rows] needs a table for each"),
    "title": (changed('title = "Two', 'title = 2 #"'), "title must be a string, not 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_suites_are_refused_in_one_line(name, tmp_path):
    text, says = BAD[name]
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_suite(path)
    assert says in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"hstu"', '"hsut"', "byhand.toml, row hstu on ring: unknown --model 'hsut'"),
        ('"hstu"', '"hstu"\nwindow = 3', "--window has no meaning for --model hstu"),
        ("layers = 2", "layers = 0", "row layers-2 on ring: --layers must be at least 1"),
    ],
)
def test_rows_that_no_run_can_have(old, new, says, make_suite):
    with pytest.raises(UserError, match=says):
        make_suite(changed(old, new))


def test_suites_are_found_by_name_or_path():
    folder = ROOT / "experiments" / "suites"
    assert find_suite("quick", folder) == folder / "quick.toml"
    assert find_suite("mine.toml", folder) == Path("mine.toml")
    with pytest.raises(UserError, match="did you mean 'ml-100k'"):
        find_suite("ml-10k", folder)
    with pytest.raises(UserError, match="no such file"):
        read_suite(Path("none/here.toml"))
