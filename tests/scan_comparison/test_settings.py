import json

import pytest

from echojax.errors import UserError
from echojax.scan_comparison.record import new_results, read_unfinished, write_results
from echojax.scan_comparison.settings import Flags, Shape, resolved

HERE = {"kernel": "needs a GPU", "fused": None, "sequential": None, "reference": None}
MACHINE = {"device": "x86_64", "versions": {"jax": "1"}}


def test_the_oracle_is_measured_only_where_it_is_named():
    assert resolved(Flags(), HERE, [], cpu=True).implementations == ("fused", "sequential")
    named = resolved(Flags(implementations=("reference", "fused")), HERE, ["torch loop"], cpu=True)
    assert named.implementations == ("fused", "reference", "torch loop")


@pytest.mark.parametrize("flags", [Flags(), Flags(quick=True)])
@pytest.mark.parametrize("cpu", [True, False])
def test_every_grid_sweeps_length_and_batch(flags, cpu):
    shapes = resolved(flags, HERE, [], cpu).shapes
    for axis in ("length", "batch"):
        others = [tuple(v for k, v in shape._asdict().items() if k != axis) for shape in shapes]
        assert max(map(others.count, others)) >= 2
    assert len(set(shapes)) == len(shapes)


def test_a_folder_is_continued_only_by_the_same_comparison(tmp_path):
    flags = Flags(shape=("1, 2,3,4", "1,2,3,4"))
    settings = resolved(flags, HERE, [], cpu=True)
    assert settings.shapes == (Shape(1, 2, 3, 4),)
    assert read_unfinished(tmp_path, settings, MACHINE) is None
    results = new_results("python experiments/compare_scans.py", settings, MACHINE, {})
    write_results(tmp_path, results)
    assert read_unfinished(tmp_path, settings, MACHINE) == results
    with pytest.raises(UserError, match="versions"):
        read_unfinished(tmp_path, settings, MACHINE | {"versions": {"jax": "2"}})
    other = resolved(Flags(shape=flags.shape, seconds=7), HERE, [], cpu=True)
    with pytest.raises(UserError, match=r"seconds 1.0, not 7"):
        read_unfinished(tmp_path, other, MACHINE)


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({"settings": 3, "rows": []})])
def test_damaged_results_are_named(content, tmp_path):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json"):
        read_unfinished(tmp_path, resolved(Flags(), HERE, [], cpu=True), MACHINE)


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"no results\.json"):
        read_unfinished(tmp_path, resolved(Flags(), HERE, [], cpu=True), MACHINE)
