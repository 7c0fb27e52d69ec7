"""Which runs a suite has, and how far each has come."""

import dataclasses
import json

import pytest

from echojax.errors import UserError
from echojax.reproduction.cells import only_rows, state_of
from tests.reproduction.conftest import SUITE, write_run

TIMED = SUITE + '[global_time]\nrows = ["popularity", "ours"]\ndatasets = ["ring"]\n'


def test_every_row_has_its_seeds_and_what_counts_has_one(make_suite):
    _, cells, out = make_suite(TIMED)
    names = [cell.name for cell in cells]
    assert names[:5] == [
        "ring/popularity/seed-0", "ring/sasrec/seed-0", "ring/sasrec/seed-1",
        "ring/sasrec/seed-2", "ring/hstu/seed-0",
    ]  # fmt: skip
    assert names[-2:] == ["ring/popularity@global-time/seed-0", "ring/ours@global-time/seed-0"]
    assert len(names) == 1 + 5 * 3 + 2
    assert {cell.config.split for cell in cells[-2:]} == {"global-time"}
    assert {cell.config.split for cell in cells[:-2]} == {"leave-one-out"}
    for cell in cells:
        assert cell.folder == out / cell.name
        assert (cell.config.seed, cell.config.run_dir) == (cell.seed, str(cell.folder))


def test_only_takes_a_row_with_all_its_runs(make_suite):
    suite, cells, _ = make_suite(TIMED)
    kept = only_rows(cells, suite, ["ours"])
    assert {cell.row for cell in kept} == {"ours", "ours@global-time"}
    with pytest.raises(UserError, match="did you mean 'ours'"):
        only_rows(cells, suite, ["our"])


def test_states(make_suite):
    _, cells, _ = make_suite()
    cell = cells[1]
    assert state_of(cell) == "new"
    write_run(cell, 2)
    assert state_of(cell) == "finished"
    (cell.folder / "results.json").rename(cell.folder / "other.json")
    assert state_of(cell) == "interrupted"


@pytest.mark.parametrize("change", [{"epochs": 300}, {"patience": 30}])
def test_a_run_that_may_be_longer_goes_on(change, make_suite):
    _, cells, _ = make_suite()
    write_run(cells[1], 2)
    longer = dataclasses.replace(cells[1].config, **change)
    assert state_of(dataclasses.replace(cells[1], config=longer)) == "interrupted"


@pytest.mark.parametrize("change", [{"epochs": 3}, {"patience": 3}, {"max_steps": 7}])
def test_a_finished_run_is_not_cut(change, make_suite):
    """Its best epoch may be one that the suite no longer allows."""
    _, cells, _ = make_suite()
    write_run(cells[1], 2)
    ((name, value),) = change.items()
    shorter = dataclasses.replace(cells[1], config=dataclasses.replace(cells[1].config, **change))
    with pytest.raises(UserError, match=f"and the suite says {value}; delete it"):
        state_of(shorter)
    (cells[1].folder / "results.json").unlink()
    assert state_of(shorter) == "interrupted", name


def test_a_finished_run_that_was_made_longer_is_not_cut_either(make_suite):
    """Its config.json has the limits of its first start, its results those of the last."""
    _, cells, _ = make_suite()
    longer = dataclasses.replace(cells[1].config, epochs=300)
    write_run(dataclasses.replace(cells[1], config=longer), 2)
    first = json.loads((cells[1].folder / "config.json").read_text())
    first["epochs"] = cells[1].config.epochs
    (cells[1].folder / "config.json").write_text(json.dumps(first))
    with pytest.raises(UserError, match="was made with --epochs 300, and the suite says 200"):
        state_of(cells[1])


@pytest.mark.parametrize("change", [{"eval_batch_size": 3}, {"data_dir": "/elsewhere"}])
def test_what_alters_no_result_alters_no_state(change, make_suite):
    _, cells, _ = make_suite()
    write_run(cells[1], 2)
    same = dataclasses.replace(cells[1].config, **change)
    assert state_of(dataclasses.replace(cells[1], config=same)) == "finished"


def test_a_folder_of_another_configuration_is_refused(make_suite):
    _, cells, _ = make_suite()
    write_run(cells[1], 2)
    other = dataclasses.replace(cells[1].config, d_model=16)
    with pytest.raises(UserError, match="made with --d-model 8, and the suite says 16; delete it"):
        state_of(dataclasses.replace(cells[1], config=other))


def test_a_run_from_before_a_flag_existed_counts_as_its_default(make_suite):
    _, cells, _ = make_suite()
    write_run(cells[1], 2)
    for name in ("config.json", "results.json"):
        path = cells[1].folder / name
        content = json.loads(path.read_text())
        del (content if name == "config.json" else content["config"])["glu"]
        path.write_text(json.dumps(content))
    assert state_of(cells[1]) == "finished"
