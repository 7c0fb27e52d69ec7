"""Initial weights from another run, and parameters that stay as they are."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx

import echojax
from echojax.config import Config
from echojax.errors import UserError
from echojax.models import build_model
from echojax.parameters import names_of
from echojax.training import loop, warm_start
from tests.conftest import reporting, without_report
from tests.training.conftest import BERT4REC as SMALL
from tests.training.conftest import arrays_of
from tests.training.conftest import ring_events as events

TWELVE = [f"i{n}" for n in range(12)]
FIVE = ["new", "i7", "i3", "i11", "newer"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "source"
    return echojax.train(events(TWELVE), epochs=2, run_dir=folder, **SMALL)


@pytest.fixture(scope="module")
def tuned(source, tmp_path_factory):
    """Return two seeds on a few of the items and others, in another order."""
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    return echojax.train(
        events(FIVE), epochs=1, run_dir=folder, init_from=source, seeds=2,
        freeze="item_*,transformer*", weight_decay=0.1, clip_norm=1.0, item_optimizer="rowwise",
        **SMALL,
    )  # fmt: skip


def test_rows_of_items_are_taken_by_id_and_what_is_frozen_stays(source, tuned):
    before, their_items = arrays_of(source.folder)
    own = [arrays_of(one.folder) for one in tuned.seeds]
    for after, items in own:
        for item in ("i7", "i3", "i11", ""):
            row, old = items.index(item), their_items.index(item)
            for name in ("item_embedding", "item_bias_V"):
                np.testing.assert_array_equal(after[name][row], before[name][old])
        for name in after:
            if name.startswith("transformer"):
                np.testing.assert_array_equal(after[name], before[name])
    (first, items), (second, _) = own
    new = items.index("new")  # drawn from each seed
    assert not np.array_equal(first["item_embedding"][new], second["item_embedding"][new])
    moved = [name for name in first if not name.startswith(("item_", "transformer"))]
    assert any(not np.array_equal(first[name], before[name]) for name in moved)


@pytest.mark.parametrize("gone", [False, True])
def test_figures_compare_with_the_weights_that_were_taken(source, gone, tmp_path):
    """They are read again at the end; without them, the run ends without these figures."""
    taken, drawn, other = arrays_of(source.folder)[0], [], tmp_path / "source"
    shutil.copytree(source.folder, other)
    with reporting(lambda path, before, *_: drawn.append(before), without_report):
        echojax.train(
            events(TWELVE), epochs=1, run_dir=tmp_path / "run", init_from=other,
            callbacks=[lambda *_: shutil.rmtree(other) if gone else None], **SMALL,
        )  # fmt: skip
    assert len(drawn) == (not gone)
    for before in drawn:
        for name, value in names_of(nnx.state(before)).items():
            np.testing.assert_array_equal(value[...], taken[name])


def test_what_was_taken_is_said(source, caplog, monkeypatch):
    monkeypatch.setattr(loop, "compile_step", None)  # it is said before
    options = SMALL | {"max_len": 5}
    with caplog.at_level("INFO", "echojax"), pytest.raises(TypeError):
        echojax.train(events(FIVE), epochs=1, run_dir=False, init_from=source, **options)
    (line,) = [r.getMessage() for r in caplog.records if "initial weights" in r.getMessage()]
    assert "3 of 5 items, without" in line
    assert "position" in line


@pytest.mark.parametrize("model", ["echomamba4rec", "fmlp-rec"])
def test_a_filter_is_taken_from_a_window_of_its_own_length(model, monkeypatch):
    """Windows of 8 and of 9 positions have five frequencies each, but not the same ones."""

    def params(max_len, seed):
        config = Config(model=model, d_model=8, max_len=max_len, seed=seed, init_from="other")
        return config, nnx.state(build_model(config, 3), nnx.Param)

    other, source = params(8, 1)
    ids = np.array(["", "a", "b"])
    best = SimpleNamespace(step=1, params=source)
    monkeypatch.setattr(warm_start, "load_checkpoint", lambda *_, **__: best)
    monkeypatch.setattr(warm_start, "read_own_config", lambda _: other)
    monkeypatch.setattr(warm_start, "read_items", lambda _: (ids, {}))
    for max_len, taken in ((8, True), (9, False)):
        config, start = params(max_len, 0)
        (found,), _ = warm_start.take_weights([start], config, ids)
        same = {
            name: np.array_equal(one[...], names_of(source)[name][...])
            for name, one in names_of(found).items()
        }
        assert same["item_embedding"]
        filters = [same[name] for name in same if name.endswith("filter.weight_FxDx2")]
        assert filters
        assert set(filters) == {taken}


@pytest.mark.slow
def test_a_resumed_run_needs_the_other_no_more(source, tuned, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(source.folder, gone)
    run = echojax.train(events(TWELVE), epochs=1, run_dir=tmp_path / "run", init_from=gone, **SMALL)
    straight = echojax.train(events(TWELVE), epochs=2, run_dir=False, init_from=gone, **SMALL)
    shutil.rmtree(gone)
    run = echojax.train(run_dir=run.folder, resume=True, epochs=2, quiet=True)
    assert run.ranks.equals(straight.ranks)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "sasrec"}, "was trained with --model bert4rec, not sasrec"),
        ({"d_model": 16}, "was trained with --d-model 8, not 16"),
        ({"model": "sasrec", "resume": True}, "was trained with --model bert4rec, not sasrec"),
        ({"init_from": "nowhere"}, "run folder nowhere does not exist"),
        ({"freeze": "embedding*"}, "--freeze 'embedding*' fits no parameter"),
        ({"freeze": "*"}, "leaves nothing to train"),
        ({"model": "popularity"}, "--init-from has no meaning for --model popularity"),
        (
            {"model": "markov", "init_from": None, "seeds": 2},
            "--seeds has no meaning for --model markov",
        ),
    ],
)
def test_mistakes_are_told_before_any_work(source, tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    given = SMALL | {"init_from": source.folder} | options
    if given["model"] == "popularity":
        given = {name: given[name] for name in ("model", "init_from", "quiet")}
    with pytest.raises(UserError) as caught:
        echojax.train(events(["a", "b", "c"]), **given)
    assert sentence in str(caught.value)
    assert not list(tmp_path.iterdir())
