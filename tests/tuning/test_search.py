"""Searches whose trainings are a formula: what is tried, recorded, refused and shown."""

import dataclasses
import io
import re
import signal
import sqlite3

import numpy as np
import pytest
from rich.console import Console

from echojax.config import Config
from echojax.data import Dataset
from echojax.lock import BusyError
from echojax.recipes import read_recipe, read_tried
from echojax.signals import Interrupted
from echojax.training.run_folder import lock
from echojax.tuning import page
from echojax.tuning import search as search_module
from echojax.tuning.search import Halving, search
from echojax.tuning.space import Choices, Range
from echojax.tuning.study import Study
from tests.conftest import refused
from tests.tuning.stand_in import stand_in_for_training

CONFIG = Config(dataset="ri<b>ng", model="sasrec", d_model=24, epochs=8, batch_size=16, seed=3)
SPACE = {
    "learning_rate": Range(1e-4, 1e-1, log=True),
    "dropout": Range(0.0, 0.5),
    "layers": Choices([1, 2]),
    "freeze": Choices(["pos<b>*", "$x"]),
}

NEAR = SPACE | {"learning_rate": Range(1e-4, 1e-2, log=True)}  # none of these diverges


def dataset(name="ri<b>ng", shift=0):
    users, times = np.repeat(np.arange(20), 8), np.tile(np.arange(8), 20)
    items = (users + times + shift * (users == 0)) % 12
    frame = {"user": users, "item": items, "time": times}
    return dataclasses.replace(Dataset.from_frame(frame, k_core=2), name=name)


DATA = dataset()
VECTORS = dataclasses.replace(
    DATA, fingerprint=DATA.fingerprint | {"item_vectors": {"sha256": 64 * "a"}}
)


PICTURES = page._pictures


@pytest.fixture(scope="module")
def stand_in():
    with stand_in_for_training() as members:
        yield members


@pytest.fixture
def members(stand_in):
    stand_in.calls, stand_in.raised = 0, {}
    return stand_in


def run(folder, *, trials=12, config=CONFIG, space=SPACE, data=DATA, **options):
    console = Console(file=io.StringIO())
    return search(config, space, folder, console, trials=trials, dataset=data, **options)


@pytest.fixture(scope="module")
def whole(stand_in, tmp_path_factory):
    """Return a search of 12 trials that ended undisturbed."""
    return run(tmp_path_factory.mktemp("study") / "whole")


def test_it_finds_what_is_good(whole):
    assert [trial.number for trial in whole.trials] == list(range(12))
    assert all(trial.finished for trial in whole.trials)
    states = [trial.state for trial in whole.trials]
    assert states.count("failed") == sum(t.values["learning_rate"] > 0.05 for t in whole.trials) > 0
    # Of each four one is trained to the end, unless it failed, and one half of the time.
    for first in range(0, 12, 4):
        epochs = [t.epochs for t in whole.trials[first : first + 4] if t.state != "failed"]
        assert max(epochs) == 8
        assert epochs.count(8) == 1
    best = max(t.score for t in whole.trials if t.score is not None)
    assert whole.best.score == best
    later = [t.score for t in whole.trials[8:] if t.score is not None]
    assert np.mean(later) > np.mean([t.score for t in whole.trials[:8] if t.score is not None])


@pytest.mark.parametrize(
    ("max_steps", "epochs"), [(8, [1, 1, 2, 4]), (7, [1, 1, 2, 4]), (2, [1] * 4)]
)
def test_halving_is_of_the_epochs_that_max_steps_leaves(members, tmp_path, max_steps, epochs):
    """An epoch has two steps, and of one there is nothing to halve."""
    config = dataclasses.replace(CONFIG, max_steps=max_steps)
    found = run(tmp_path, trials=4, config=config, space=NEAR)
    assert sorted(trial.epochs for trial in found.trials) == epochs


def kill():
    raise Interrupted("stopped", signal.SIGTERM)


def test_killed_and_gone_on_with_it_ends_the_same(whole, members, tmp_path, monkeypatch):
    members.raised = {2: kill, 4: kill}
    folder, record = tmp_path / "killed", Study.record
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(folder)

    def second_is_lost(self, number, outcome, *, stopped):
        if number == 9:
            raise KeyboardInterrupt
        return record(self, number, outcome, stopped=stopped)

    monkeypatch.setattr(Study, "record", second_is_lost)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    monkeypatch.setattr(Study, "record", record)
    assert run(folder).trials == whole.trials
    before = members.calls
    assert run(folder).best == whole.best  # nothing is left to do
    assert members.calls == before


def test_more_trials_go_on_and_another_seed_tries_others(whole, tmp_path):
    run(tmp_path / "more", trials=8)
    assert run(tmp_path / "more").trials == whole.trials
    assert len(run(tmp_path / "more", trials=3).trials) == 3
    other = run(tmp_path / "other", config=dataclasses.replace(CONFIG, seed=4), trials=4)
    assert other.trials[0].values != whole.trials[0].values


def test_another_process_takes_other_generations(members, tmp_path, caplog):
    """While one trains the first generation, the other does the rest, and leaves it alone."""
    caplog.set_level("INFO")
    other = []
    members.raised = {1: lambda: other.append(run(tmp_path / "both"))}
    mine = run(tmp_path / "both")
    assert "4 trials are being trained by another process" in caplog.text
    assert [trial.finished for trial in other[0].trials] == [False] * 4 + [True] * 8
    assert [trial.number for trial in mine.trials] == list(range(12))
    assert all(trial.finished for trial in mine.trials)
    assert members.calls == 3


def test_what_another_process_has_begun_is_still_to_come(members, tmp_path, monkeypatch):
    folder = tmp_path / "begun"
    run(folder, trials=4)
    (folder / "generation-1").mkdir()
    with lock(folder / "generation-1"):  # and has proposed nothing yet
        assert run(folder).left == 4
        found = run(folder, trials=8)
        assert [trial.number for trial in found.trials] == [0, 1, 2, 3]
        assert found.left == 4

    def write(found):
        with pytest.raises(BusyError), lock(folder):
            pass

    monkeypatch.setattr(search_module, "write", write)
    assert run(folder).left == 0


def test_what_is_added_to_a_generation_is_one_of_its_own(members, tmp_path):
    """The first six trials stay as they are, and one of the other two is trained to the end."""
    before = run(tmp_path, trials=6, space=NEAR).trials
    assert not list(tmp_path.glob("*/*/checkpoints"))
    found = run(tmp_path, trials=8, space=NEAR)
    assert found.trials[:6] == before
    assert sorted(trial.epochs for trial in found.trials[6:]) == [4, 8]


def test_what_cannot_be_trained_is_counted(members, tmp_path):
    space = {"heads": Choices([2, 3]), "d_model": Choices([16, 24]), "dropout": Range(0.0, 0.5)}
    found = run(tmp_path / "misfits", space=space)
    misfits = [t for t in found.trials if (t.values["heads"], t.values["d_model"]) == (3, 16)]
    assert misfits
    assert {t.state for t in misfits} == {"failed"}
    assert "--heads 3 does not divide --d-model 16" in misfits[0].ended
    assert found.best.score is not None
    rates = {"learning_rate": Range(0.06, 0.1)}
    with refused("all 4 trials failed, the last: diverged: the loss"):
        run(tmp_path / "failed", space=rates, trials=4)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"data": dataset(shift=1)}, "is a study of other data (sha256"),
        ({"data": VECTORS}, "a study with --item-vectors None, not aaaaaaaaaaaa"),
        ({"config": dataclasses.replace(CONFIG, model="hstu")}, "a study with --model sasrec, not"),
        ({"config": dataclasses.replace(CONFIG, epochs=9)}, "a study with --epochs 8, not 9; give"),
        ({"config": dataclasses.replace(CONFIG, seed=4)}, "a study with --seed 3, not 4"),
        ({"space": SPACE | {"layers": Choices([1, 3])}}, "of another space than learning_rate: 0"),
        ({"space": {"dropout": Range(0.0, 0.5)}}, "of another space than dropout: 0 to 0.5"),
        ({"generation": 2}, "a study with --generation 4, not 2"),
        ({"trials": 0}, "--trials must be at least 1, not 0"),
        ({"config": dataclasses.replace(CONFIG, run_dir="x")}, "--run-dir has no place in a"),
        ({"config": dataclasses.replace(CONFIG, seeds=2)}, "--seeds has no place in a search"),
        ({"config": dataclasses.replace(CONFIG, profile=2)}, "--profile has no place in a search"),
    ],
)
def test_another_study_is_refused(given, says, whole):
    with refused(says):
        run(whole.folder, **given)


def test_folders_of_no_use(members, tmp_path):
    (tmp_path / "file").write_text("")
    with refused("is a file; name a folder"):
        run(tmp_path / "file")
    with refused("has files but no study.json"):
        run(tmp_path)
    folder = tmp_path / "odd ?%&"
    run(folder, trials=4)
    assert (folder / "study.db").exists()
    with sqlite3.connect(folder / "study.db") as database:
        database.execute("UPDATE trial_user_attributes SET value_json = '3' WHERE key = 'outcome'")
    database.close()
    with refused("study.db cannot be used (Expected `object`, got `int`"):
        run(folder, trials=4)
    (folder / "study.db").write_bytes(b"no database, " * 99)
    with refused("study.db cannot be used (file is not a database)"):
        run(folder, trials=4)
    (folder / "study.json").write_text("{}")
    with refused("study.json cannot be used"):
        run(folder, trials=4)


def test_the_page_has_every_trial_and_nothing_raw(whole, monkeypatch):
    monkeypatch.setattr(page, "_pictures", PICTURES)
    page.write(whole)
    html = whole.page.read_text()
    assert "<b>" not in html
    assert "Search of sasrec on ri&lt;b&gt;ng" in html
    assert "pos&lt;b&gt;*" in html
    rows = re.findall(r"<th[^>]*>(\d+)</th>", html)
    assert rows == [str(n) for n in range(12)]
    assert html.count("<svg") == 1 + len(SPACE)
    assert "diverged: the loss of step 7 is not finite" in html
    assert f"{whole.count('failed')} failed" in html


def test_the_best_trial_is_a_recipe(whole):
    recipe = str(whole.recipe)
    given = {"d_model": 24, "epochs": 8, "batch_size": 16}
    assert read_recipe(recipe, "sasrec", None) == given | whole.best.values
    tried = read_tried(recipe, "sasrec", None)
    assert len(tried) == 12
    assert max(one.get("score", 0) for one in tried) == round(whole.best.score, 5)


@pytest.mark.parametrize(
    ("members", "epochs", "left"),
    [
        (4, 8, {1: 4, 2: 2, 3: 2, 4: 1, 8: 1}),
        (4, 30, {6: 4, 7: 2, 14: 2, 15: 1, 30: 1}),
        (5, 8, {2: 3, 4: 2, 8: 2}),
        (8, 80, {9: 8, 10: 4, 20: 2, 40: 1}),
        (2, 8, {3: 2, 4: 1}),
        (1, 8, {8: 1}),
        (4, 2, {1: 1, 2: 1}),
        (4, 1, {1: 4}),
    ],
)
def test_halving(members, epochs, left):
    """The better places are those of higher numbers: their scores were once the best."""
    halving, alive = Halving(range(members), epochs), set(range(members))
    for epoch in range(1, epochs + 1):
        scores = {i: (1 + i) / 10 if epoch == 1 else (9 - i) / 100 for i in alive}
        alive -= set(halving(epoch, scores))
        assert len(alive) == left.get(epoch, len(alive))
        assert alive == set(range(members)) - halving.stopped
        assert max(alive) == members - 1


def test_of_equal_trials_the_first_goes_on():
    assert Halving(range(2), 4)(2, {0: 0.5, 1: 0.5}) == [1]
