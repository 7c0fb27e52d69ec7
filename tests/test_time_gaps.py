"""``--time-gaps`` where it is known what the times are worth: each decides between two next items.

After a short gap an item is followed by the next one of a ring of 12, after a long one by the next
but two. Whoever reads no times has the two at even odds, so at most half of its first guesses are
right; whoever does can have all of them right.
"""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

import echojax
from echojax import UserError
from echojax.commands import recommend
from echojax.config import Config
from echojax.data import Dataset, leave_one_out, windows
from echojax.data.gaps import log_gaps, with_gaps
from echojax.evaluation.prequential import passes
from echojax.explore.answers import Question, answers
from echojax.explore.runs import read_explored
from echojax.serving.history_file import answer_file
from echojax.training.run_folder import read_gap_unit
from tests.conftest import reporting, without_report

ITEMS, USERS, EVENTS = 12, 300, 9
SMALL = {
    "d_model": 16, "max_len": 5, "dropout": 0.0, "learning_rate": 0.02, "batch_size": 64,
    "epochs": 20, "k_core": 0, "quiet": True,
}  # fmt: skip
SECOND = 1.7e9


def ring(seed=0):
    """Return users, items and times, (USERS, EVENTS) each."""
    rng = np.random.default_rng(seed)
    long = rng.random((USERS, EVENTS)) < 0.5
    gaps = np.where(long, rng.uniform(3000, 9000, long.shape), rng.uniform(1, 20, long.shape))
    moves = np.where(long, 3, 1)
    moves[:, 0] = rng.integers(ITEMS, size=USERS)  # a first event has no gap before it
    # Event t + 1 is decided by the gap before event t.
    moves[:, 1:] = np.concatenate([np.ones((USERS, 1), int), moves[:, 1:-1]], axis=1)
    users = np.repeat(np.arange(USERS)[:, None], EVENTS, axis=1)
    return users, np.cumsum(moves, axis=1) % ITEMS, SECOND + np.cumsum(gaps, axis=1).round()


def after(item, gap):
    """Return what follows an item that came ``gap`` seconds after the one before."""
    return str((item + (3 if gap > 1000 else 1)) % ITEMS)


def frame():
    return dict(zip(("user", "item", "time"), (x.ravel() for x in ring()), strict=True))


def first_guesses(model, **options):
    """Return a run, and how often its first guess at the test's target is right."""
    run = echojax.train(frame(), model=model, **SMALL | options)
    return run, run.evaluate(ks=[1])["hr@1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "timed"
    with reporting(report=without_report):
        return first_guesses(
            "mamba4rec", d_state=8, scan="sequential", time_gaps=True, run_dir=folder
        )


def test_what_times_decide_is_learned_with_them(trained):
    assert trained[1] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("mamba4rec", {"d_state": 8}),
        ("hstu", {}),
        ("sasrec", {}),
        ("echomamba4rec", {"d_state": 8}),
        ("echomamba4rec", {"d_state": 8, "variant": "causal", "objective": "all-positions"}),
    ],
)
def test_every_model_that_reads_times_learns_from_them(model, options):
    assert first_guesses(model, **options, run_dir=False, time_gaps=True)[1] > 0.9
    assert first_guesses(model, **options, run_dir=False)[1] < 0.6


def test_a_served_history_is_read_with_its_times(trained, tmp_path):
    recommender = trained[0].recommender()
    for gap in (5, 5000):
        history = [
            ("3", SECOND),
            ("unknown", SECOND + 1),
            ("4", SECOND + 10),
            ("7", SECOND + 10 + gap),
        ]
        answer = recommender.recommend([history], 3, exclude_seen=False)[0]
        assert (answer.item_ids[0], answer.unknown) == (after(7, gap), 1)
        scores = recommender.score(history, answer.item_ids)
        np.testing.assert_allclose(scores, answer.scores, rtol=1e-4)
    file, output = tmp_path / "histories", tmp_path / "answers"
    file.write_text("a 3@1700000000 4@1700000010 7@1700000015\nb 3@0 7@5000.5\nc unknown@7\n")
    list(answer_file(recommender, file, output, 1, exclude_seen=False))
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [one["items"][0] for one in found[:2]] == [after(7, 5), after(7, 5000)]
    assert found[2]["by"] == "popularity"


def test_a_history_with_times_is_shown_with_its_titles(trained, monkeypatch):
    monkeypatch.setattr("echojax.serving.trained.run_titles", lambda *_, **__: {"3": "Three"})
    run, console = trained[0], Console(file=io.StringIO())
    flags = recommend.Flags(run_dir=run.folder, history="3@1700000000,4@1700000010")
    recommend.show(flags, run.recommender(), console)
    assert console.file.getvalue().startswith("history: Three · 4\n")


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ("3@5 4", "item '4' has no time, and this model reads the times between events"),
        ("3@5 4@nan", "item '4' has no time"),
        ("3@5 4@1e999", "item '4' has no time"),
        ("3@5 4@1" + 400 * "0", "item '4' has no time"),
        ("3@5 4@4", "item '4' is at 4, before the one ahead of it"),
    ],
)
def test_histories_without_their_times_are_refused(trained, tmp_path, events, says):
    file = tmp_path / "histories"
    file.write_text(f"a 3@1\nb {events}\n")
    with pytest.raises(UserError, match=f"histories: user 'b': {says}"):
        list(answer_file(trained[0].recommender(), file, tmp_path / "answers", 1))


def test_the_page_reads_times(trained):
    run = read_explored(trained[0].folder)
    _, items, times = ring()
    asked = answers(Question(user="7", k=3), [run])
    words = tuple(f"{i}@{t}" for i, t in zip(items[7, :-1], times[7, :-1], strict=True))
    typed = answers(Question(history=words, k=3), [run])
    assert asked["answers"][0]["rows"] == typed["answers"][0]["rows"]
    assert asked["answers"][0]["events"] == typed["answers"][0]["events"]


def test_an_exported_program_takes_gaps(trained, tmp_path):
    manifest = trained[0].export(tmp_path / "model", k=3)
    assert manifest["arguments"]["gaps"] == "float32[b,5]"
    program = jax.export.deserialize(
        bytearray((tmp_path / "model" / "program.jax_export").read_bytes())
    )
    assert "mosaic" not in program.mlir_module()  # no kernel of one accelerator
    weights = dict(np.load(tmp_path / "model" / "weights.npz"))
    item_ids = json.loads((tmp_path / "model" / "items.json").read_text())["item_ids"]
    items, gaps = np.zeros((2, 5), np.int32), np.zeros((2, 5), np.float32)
    items[:, :3] = [item_ids.index(item) for item in ("3", "4", "7")]
    for row, gap in enumerate((5, 5000)):
        gaps[row, :3] = log_gaps(np.array([0, 10, 10 + gap]), manifest["gap_unit"])
    lengths, seen = np.array([3, 3], np.int32), np.zeros((2, 1), np.int32)
    _, best = program.call(weights, items, lengths, seen, gaps)
    assert [item_ids[number] for number in best[:, 0]] == [after(7, 5), after(7, 5000)]


def dataset(times_T, lengths, kind="source"):
    """Return a data set whose item numbers are places in it."""
    count = sum(lengths)
    return Dataset(
        name="x",
        items_T=np.arange(1, count + 1, dtype=np.int32),
        times_T=times_T,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        user_ids=np.arange(len(lengths)).astype(str),
        item_ids=np.arange(count + 1).astype(str),
        fingerprint={"time": kind},
    )


def all_rows(data, max_len=3):
    """Return the batches of every part, of training's windows, and of a prequential evaluation."""
    split = with_gaps(data, leave_one_out(data, max_len))
    parts = {p: getattr(split, p) for p in ("train", "valid", "test")}
    parts |= {"windows": windows(split.train), "passes": passes(split.test)[0]}
    return {name: part.gather(np.arange(len(part))) for name, part in parts.items()}


def test_no_row_has_the_time_of_its_target_or_of_what_it_does_not_show():
    times = np.cumsum(np.random.default_rng(2).exponential(100, 14).round() + 1)
    data = dataset(times, [6, 8])
    unit = with_gaps(data, leave_one_out(data, 3)).gap_unit
    for name, rows in all_rows(data).items():
        assert rows["gaps"].dtype == np.float32
        for items, gaps, length in zip(
            rows["item_ids"], rows["gaps"], rows["lengths"], strict=True
        ):
            shown = times[items[:length] - 1]
            np.testing.assert_array_equal(gaps[:length], log_gaps(shown, unit), err_msg=name)
            assert (gaps[length:] == 0).all()
    # The test target's time, the last of all, changes nothing anywhere, nor the unit of gaps.
    for last in (times[-1] + 1e6, times[-2], times[-2] + 1e-3):
        for name, rows in all_rows(dataset(np.append(times[:-1], last), [6, 8])).items():
            np.testing.assert_array_equal(rows["gaps"], all_rows(data)[name]["gaps"])


def test_the_unit_of_the_source_does_not_matter():
    seconds = np.cumsum(np.random.default_rng(1).integers(0, 400, 60)) + 1_700_000_000
    as_seconds = all_rows(dataset(seconds.astype(float), [20, 40]))
    for times in (seconds * 1e3, seconds * 10**9 + 2**61, seconds * 10**9 - 2**62 - 7):
        for name, rows in all_rows(dataset(times, [20, 40])).items():
            np.testing.assert_allclose(rows["gaps"], as_seconds[name]["gaps"], rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (dataset(np.arange(8.0), [4, 4], "position"), "needs times and x has only positions"),
        (dataset(np.zeros(8), [4, 4]), "no training event of x is later than the event before"),
    ],
)
def test_data_without_times_between_events_are_refused(data, says):
    with pytest.raises(UserError, match=f"--time-gaps.*{says}"):
        with_gaps(data, leave_one_out(data, 3))


@pytest.mark.parametrize("unit", ["", ', "gap_unit": 0', ', "gap_unit": -1.5'])
def test_a_run_without_its_unit_is_refused(unit, tmp_path):
    (tmp_path / "items.json").write_text(f'{{"item_ids": [""]{unit}}}')
    assert read_gap_unit(tmp_path, Config()) is None
    with pytest.raises(UserError, match="has no 'gap_unit' above 0; restore it"):
        read_gap_unit(tmp_path, Config(time_gaps=True))
