"""``echojax.train`` and what comes of it, on a frame of users who walk around a ring of items."""

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

import echojax
from echojax import UserError, interop
from echojax.api import as_found
from echojax.evaluation.metrics import metric_names, metrics_of
from echojax.evaluation.statistics import holm, paired_difference
from echojax.run_files import read_records
from echojax.serving import export_run
from tests.conftest import refused, reporting

COLUMNS = {"user": "who", "item": "what", "time": "when"}
DATA = COLUMNS | {"k_core": 2, "quiet": True}
MODEL = {
    "model": "gru4rec", "d_model": 8, "hidden_size": 8, "max_len": 8, "batch_size": 64,
    "learning_rate": 0.01, "quiet": True,
}  # fmt: skip
SMALL = MODEL | DATA


@pytest.fixture(scope="module")
def frame():
    rng, rows = np.random.default_rng(0), []
    for user in range(40):
        item, day = rng.integers(20), datetime(2024, 1, 1)
        for _ in range(rng.integers(8, 16)):
            item = (item + 1) % 20 if rng.random() < 0.9 else rng.integers(20)
            day += timedelta(hours=int(rng.integers(1, 50)))
            rows.append((f"u{user}", f"i{item}", day.isoformat()))
    rng.shuffle(rows)
    return dict(zip(("who", "what", "when"), map(list, zip(*rows, strict=True)), strict=True))


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def mine(frame, told, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    with reporting():
        return echojax.train(frame, epochs=3, run_dir=folder, callbacks=[told.append], **SMALL)


@pytest.fixture(scope="module")
def two(frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "two"
    return echojax.train(frame, epochs=1, seeds=2, run_dir=folder, **SMALL)


def test_a_run_holds_what_came_of_it(mine, told):
    assert list(mine.metrics) == metric_names()
    assert mine.metrics["ndcg@10"] == mine.results["test"]["ndcg@10"]
    ranks = mine.ranks
    assert ranks.columns == ["seed", "user", "length", "rank"]
    assert metrics_of(ranks["rank"].to_numpy()).mean(axis=0).tolist() == [*mine.metrics.values()]
    assert mine.history["epoch"].to_list() == [1, 2, 3]
    assert mine.history["ndcg@10"].to_list() == [one["ndcg@10"] for one in told]
    assert all(one["seed"] == 0 for one in told)
    assert mine.report_path.exists()
    assert f"ndcg@10 {mine.metrics['ndcg@10']:.4f}" in repr(mine)
    again = echojax.Run.load(mine.folder)
    assert again.metrics == mine.metrics
    assert again.seeds == (again,)


def test_a_recipe_fills_in_what_is_not_given(frame, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("max_steps = 1\nlearning_rate = 0.5\n[gru4rec]\ndropout = 0.3\n")
    run = echojax.train(frame, recipe=recipe, run_dir=tmp_path / "run", **SMALL)
    assert (run.config.max_steps, run.config.dropout) == (1, 0.3)
    assert run.config.learning_rate == SMALL["learning_rate"]
    with pytest.raises(UserError, match="is for other models than caser"):
        echojax.train(frame, recipe=recipe, **SMALL | {"model": "caser", "hidden_size": None})
    with pytest.raises(UserError, match="--recipe best: there is none for"):
        echojax.train(frame, recipe="best", **SMALL)


@pytest.mark.slow
def test_a_search_leaves_a_recipe_and_goes_on(frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = SMALL | {"epochs": 2, "out": "study", "generation": 2}
    space = {"dropout": {"low": 0.0, "high": 0.5}, "weight_decay": {"choices": [0.0, 0.1]}}
    first = echojax.tune(frame, trials=1, space=space, **options)
    found = echojax.tune(frame, trials=2, space=space, **options)
    assert found.trials[0] == first.trials[0]
    assert found.best.values.keys() == {"dropout", "weight_decay"}
    del options["out"], options["generation"]
    monkeypatch.chdir(tmp_path.parent)
    run = echojax.train(frame, recipe=found.recipe, run_dir=tmp_path / "run", **options)
    assert run.config.dropout == found.best.values["dropout"]
    with pytest.raises(UserError, match=r"the space: .*nothing to search; leave one of --dropout"):
        echojax.tune(frame, space={"dropout": space["dropout"]}, dropout=0.1, **options)


def test_a_notebook_shows_the_report_and_nothing_of_it_can_act_there(mine):
    shown = mine._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert " sandbox " in shown
    assert shown.count("<") == 2  # the page's own are escaped


@pytest.mark.parametrize(
    "kind",
    ["polars", "dataset", *[pytest.param(k, marks=pytest.mark.slow) for k in ("arrays", "path")]],
)
def test_the_same_data_in_any_form_is_the_same_run(mine, frame, tmp_path, kind):
    options = SMALL | {"epochs": 3, "run_dir": False}
    data = pl.DataFrame(frame)
    if kind == "path":
        data.write_csv(tmp_path / "log.csv")
        data = tmp_path / "log.csv"
    elif kind == "arrays":
        data = [np.array(frame[name]) for name in ("who", "what", "when")]
        options |= dict.fromkeys(COLUMNS)
    elif kind == "dataset":
        data = echojax.Dataset.from_frame(data, **COLUMNS, k_core=2)
        options = MODEL | {"epochs": 3, "run_dir": False}
    run = echojax.train(data, **options)
    assert run.results["dataset"]["sha256"] == mine.results["dataset"]["sha256"]
    assert run.ranks.equals(mine.ranks)


def test_it_is_evaluated_again_by_other_cutoffs_and_protocols(mine):
    assert mine.evaluate() == mine.metrics
    assert mine.evaluate(ks=20)["hr@20"] == mine.metrics["hr@20"]
    own, filtered = mine.evaluate(ks=(1, 20)), mine.evaluate(ks=[1, 20], exclude_seen=True)
    assert own["hr@20"] == filtered["hr@20"] == 1  # there are 20 items
    assert filtered["mrr@20"] > own["mrr@20"]
    assert mine.evaluate(split="valid")["hr@10"] == mine.history["hr@10"].max()
    odd = ({"metrics": 3}, {"metrics": "recal"}, {"ks": 21}, {"metrics": ["novelty@21"]})
    for bad in ({"ks": ()}, {"ks": (0,)}, {"ks": 2.5}, {"split": "train"}, {"split": 3}, *odd):
        with pytest.raises(UserError):
            mine.evaluate(**bad)


def test_other_data_than_those_that_a_run_keeps_are_refused(mine, frame, tmp_path):
    other = str(tmp_path / "other.csv")
    pl.DataFrame(frame).head(200).write_csv(other)
    for call in (
        lambda: mine.evaluate(data_path=other),
        lambda: mine.recommender(data_path=other).recommend([[]]),
        lambda: echojax.train(other, run_dir=mine.folder, resume=True, quiet=True),
    ):
        with refused("keeps the data that it was trained on", f"leave --data-path {other} out"):
            call()


def test_data_that_a_killed_start_has_left_are_not_read(mine, frame, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(mine.folder / "data.npz", tmp_path / "run")
    pl.DataFrame(frame).head(200).write_csv(tmp_path / "other.csv")
    path, run_dir = tmp_path / "other.csv", tmp_path / "run"
    run = echojax.train(path, model="popularity", run_dir=run_dir, **DATA)
    assert run.results["dataset"]["interactions"] <= 200
    assert run.evaluate(exclude_seen=False, data_path=str(path)) == run.metrics


def test_other_metrics_are_those_of_the_results_and_of_the_ranks(mine, two):
    names = ["recall", "coverage", "serendipity@1", "ece"]
    found = mine.evaluate(metrics=names, ks=[10])
    assert list(found) == ["recall@10", "coverage@10", "serendipity@1", "ece"]
    assert found["recall@10"] == mine.metrics["hr@10"]
    assert [found[name] for name in ("coverage@10", "ece")] == [
        mine.results["test"][name] for name in ("coverage@10", "ece")
    ]
    found = two.evaluate(metrics="map", ks=10)["map@10"]
    assert found == pytest.approx(two.metrics["mrr@10"], abs=1e-12)
    each = [one.results["test"]["gini@10"] for one in two.seeds]
    assert two.evaluate(metrics=["gini@10"]) == {"gini@10": pytest.approx(np.mean(each))}
    recall = echojax.compare({"mine": mine, "two": two}, metric="recall@5")
    assert recall["difference"].to_list() == [
        None, pytest.approx(two.metrics["hr@5"] - mine.metrics["hr@5"])
    ]  # fmt: skip
    for metric in ("coverage@10", "recall", "ece"):
        with pytest.raises(UserError, match=f"{metric} is no mean over examples at one cutoff"):
            echojax.compare({"mine": mine, "two": two}, metric=metric)


def test_a_baseline_is_a_run_too(frame):
    run = echojax.train(frame, model="markov", run_dir=False, **DATA)
    assert run.metrics == {
        name: run.results["baselines"]["markov"]["test"][name] for name in run.metrics
    }
    assert run.evaluate(exclude_seen=True)["mrr@20"] >= run.metrics["mrr@20"]
    with pytest.raises(UserError, match="a baseline has no probabilities"):
        run.evaluate(metrics=["ece"])


def test_it_recommends_and_is_exported(mine, tmp_path):
    (answer,) = mine.recommender().recommend([["i1", "i2"]], k=3)
    assert answer.by == "model"
    manifest = mine.export(tmp_path / "model", k=5)
    assert manifest["step"] == mine.results["train"]["best_step"]
    assert (tmp_path / "model" / "manifest.json").exists()


def test_the_history_has_metrics_that_came_late(mine, tmp_path):
    shutil.copytree(mine.folder, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    last = next(one for one in read_records(file) if one["kind"] == "valid")
    lines = [*[last] * 200, last | {"own": 0.5}]
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert echojax.Run.load(tmp_path / "run").history["own"].drop_nulls().to_list() == [0.5]


def test_several_seeds_are_means_and_each_is_there(two):
    assert [one.config.seed for one in two.seeds] == [0, 1]
    each = [one.metrics["ndcg@10"] for one in two.seeds]
    assert two.metrics["ndcg@10"] == pytest.approx(np.mean(each), abs=1e-12)
    assert two.history["seed"].to_list() == two.ranks["seed"].unique().to_list() == [0, 1]
    assert two.evaluate(ks=(10,))["ndcg@10"] == pytest.approx(np.mean(each), abs=1e-12)
    for single in (lambda: two.report_path, two.recommender, lambda: two.results):
        with pytest.raises(UserError, match=r"2 seeds; use one of run\.seeds"):
            single()
    assert "2 seeds" in two._repr_html_()


def test_runs_are_compared_user_by_user(mine, two):
    table = echojax.compare({"mine": mine, "two": two, "again": mine}, metric="ndcg@10")
    assert table["run"].to_list() == ["mine", "two", "again"]
    column = metric_names().index("ndcg@10")
    ours, theirs = (
        np.mean(
            [metrics_of(r["rank"].to_numpy())[:, column] for r in run.ranks.partition_by("seed")],
            axis=0,
        )
        for run in (mine, two)
    )
    found = paired_difference(theirs, ours, mine.ranks["user"].to_numpy())
    row = table.row(1, named=True)
    assert {k: row[k] for k in ("difference", "p")} == {k: found[k] for k in ("difference", "p")}
    assert (row["difference_low"], row["difference_high"]) == (found["low"], found["high"])
    assert row["p_holm"] == holm([found["p"], 1.0])[0]
    assert table["difference"].to_list()[::2] == [None, 0.0]
    assert table["low"][0] < mine.metrics["ndcg@10"] < table["high"][0]


def test_a_compared_run_may_have_any_name(mine):
    names = ["a", ("gru", 8), 3, None]
    table = echojax.compare(dict.fromkeys(names, mine))
    assert table["run"].to_list() == ["a", "('gru', 8)", "3", "None"]


def test_what_is_not_alike_is_not_compared(mine, frame):
    other = echojax.train(frame, model="markov", run_dir=False, exclude_seen=True, **DATA)
    with pytest.raises(UserError, match=r"differ in --exclude-seen \(True, False\)"):
        echojax.compare({"mine": mine, "other": other})
    with pytest.raises(UserError, match="name two or more"):
        echojax.compare({"mine": mine})
    with refused("hr@21: there are only 20 items; name a smaller cutoff"):
        echojax.compare({"mine": mine, "same": mine}, metric="hr@21")
    for runs in ([mine, mine], {"mine": mine, "other": str(mine.folder)}):
        with pytest.raises(UserError, match="runs are wanted by name"):
            echojax.compare(runs)
    with pytest.raises(UserError, match="did you mean 'ndcg@10'"):
        echojax.compare({"mine": mine, "same": mine}, metric="ndgc@10")


def test_without_a_folder_nothing_stays(frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = echojax.train(frame, epochs=1, run_dir=False, **SMALL)
    folder = run.folder
    assert run.metrics
    assert run.recommender()
    assert not list(tmp_path.iterdir())
    recommender = run.recommender()
    del run
    assert recommender.recommend([["nowhere"]])[0].by == "popularity"
    del recommender
    assert not folder.exists()
    first, _ = echojax.train(frame, epochs=1, seeds=2, run_dir=False, **SMALL).seeds
    folder = first.folder.parent
    assert first.metrics
    del first, _
    assert not folder.exists()


def test_what_a_run_needs_is_found_from_another_folder(frame, tmp_path, monkeypatch):
    pl.DataFrame(frame).write_csv(tmp_path / "log.csv")
    monkeypatch.chdir(tmp_path)
    run = echojax.train("log.csv", model="popularity", run_dir="run", **DATA)
    loaded = echojax.Run.load("run")
    monkeypatch.chdir(tmp_path.parent)
    assert run.metrics == loaded.metrics
    assert loaded.evaluate(exclude_seen=True)["mrr@20"] > run.metrics["mrr@20"]
    assert run.folder == loaded.folder == tmp_path / "run"


def test_a_callback_stops_training(frame):
    run = echojax.train(
        frame, epochs=9, run_dir=False, callbacks=[lambda m: m["epoch"] == 2], **SMALL
    )
    assert run.history["epoch"].to_list() == [1, 2]
    assert run.results["train"]["stopped"] == "a callback stopped it"


class Coming:
    """What an asynchronous function returns."""

    def __await__(self):
        """Nothing is awaited."""


@pytest.mark.parametrize(
    "odd", [np.array([True, False]), pl.Series([True]), Coming()], ids=["array", "series", "coming"]
)
def test_a_callback_returns_true_or_false(frame, odd):
    with refused("a callback must return true or false, not a value of type", type(odd).__name__):
        echojax.train(frame, epochs=2, run_dir=False, callbacks=[lambda _: odd], **SMALL)


def test_a_run_goes_on_from_its_folder_alone(mine, frame, tmp_path):
    folder = tmp_path / "run"
    echojax.train(frame, epochs=1, run_dir=folder, **SMALL)
    run = echojax.train(run_dir=folder, resume=True, epochs=3, quiet=True)
    assert run.ranks.equals(mine.ranks)
    with pytest.raises(UserError, match="was made with --model gru4rec, not sasrec; leave --model"):
        echojax.train(run_dir=folder, resume=True, model="sasrec", quiet=True)
    (folder / "data.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"data\.npz cannot be read"):
        echojax.train(run_dir=folder, resume=True, epochs=4, quiet=True)
    (folder / "data.npz").unlink()
    with pytest.raises(UserError, match=r"has lost data\.npz.* restore it from a copy"):
        run.evaluate(exclude_seen=True)


def test_an_interrupt_saves_and_then_does_what_it_would_have_done(mine, frame, tmp_path):
    folder, handlers = (
        tmp_path / "run",
        [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
    )

    def press(_):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        echojax.train(frame, epochs=3, run_dir=folder, callbacks=[press], **SMALL)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(UserError, match="has no results yet; go on with"):
        echojax.Run.load(folder).metrics  # noqa: B018
    assert echojax.train(run_dir=folder, resume=True, quiet=True).ranks.equals(mine.ranks)


def test_the_process_is_left_as_it_was(frame, capsys):
    logger, below = logging.getLogger("echojax"), logging.getLogger("echojax.below")
    shows = below.isEnabledFor(logging.INFO)
    callbacks = [lambda _: below.info("said meanwhile")]
    before = logger.handlers[:], logger.level, logger.propagate, logging.root.handlers[:]
    settings = dict(jax.config.values)
    echojax.train(frame, epochs=1, run_dir=False, callbacks=callbacks, **SMALL | {"quiet": False})
    out = capsys.readouterr().out
    assert "epoch 1  loss" in out
    assert "said meanwhile" in out
    assert below.isEnabledFor(logging.INFO) == shows
    assert (logger.handlers[:], logger.level, logger.propagate, logging.root.handlers[:]) == before
    assert dict(jax.config.values) == settings
    echojax.train(frame, epochs=1, run_dir=False, **SMALL)
    assert capsys.readouterr().out == ""


def test_quiet_calls_print_nothing_of_loggers_that_have_a_level(frame, capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    logger, received = logging.getLogger("echojax"), logging.Handler()
    monkeypatch.setattr(received, "handle", lambda record: None)
    monkeypatch.setattr(logger, "handlers", [received])
    monkeypatch.setattr(logger, "level", logging.INFO)
    echojax.train(frame, epochs=1, run_dir=False, **SMALL)
    assert capsys.readouterr() == ("", "")
    assert logging.root.handlers == []


def test_calls_that_overlap_leave_logging_as_it_was():
    logger, (begun, go_on) = logging.getLogger("echojax"), (threading.Event(), threading.Event())
    before = logger.handlers[:], logger.level, logger.propagate

    def longer():
        with as_found(quiet=False):
            begun.set()
            go_on.wait(60)

    thread = threading.Thread(target=longer)
    with as_found(quiet=False):
        thread.start()
        assert begun.wait(60)
    assert logger.handlers[:] != before[0]  # the longer one still shows messages
    go_on.set()
    thread.join()
    assert (logger.handlers[:], logger.level, logger.propagate) == before


def test_it_trains_in_a_thread_and_beside_float64(mine, frame, x64):
    runs = []
    thread = threading.Thread(
        target=lambda: runs.append(echojax.train(frame, epochs=3, run_dir=False, **SMALL))
    )
    thread.start()
    thread.join()
    assert runs[0].ranks.equals(mine.ranks)
    assert jax.numpy.ones(1, "float64").dtype == np.float64


def test_it_is_served_beside_float64(mine, tmp_path, x64):
    (answer,) = echojax.Recommender.load(mine.folder).recommend([["i1", "i2"]])
    assert answer == mine.recommender().recommend([["i1", "i2"]])[0]
    results = export_run(mine.folder, tmp_path / "model", k=3)["results"]
    assert results == {"scores": "float32[b,3]", "item_numbers": "int32[b,3]"}


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        (None, {"epoch": 3}, "unknown option 'epoch'; did you mean 'epochs'?"),
        (None, {"epochs": "many"}, "--epochs must be a whole number, not 'many'"),
        (None, {"learning_rate": -1.0}, "--learning-rate must be above 0"),
        (None, {"loss": "ce"}, "unknown --loss 'ce'; did you mean 'bce'?"),
        (None, {"model": "sasrek"}, "unknown --model 'sasrek'; did you mean 'sasrec'?"),
        (None, {"dataset": "ml-1m"}, "data and --dataset are given; leave one out"),
        (None, {"user": "whom"}, "whom"),
        (None, {"model": ["sasrec"]}, "--model must be a string, not ['sasrec']"),
        (None, {"plugin": 3}, "--plugin must be a string, not 3"),
        (None, {"item_shards": 3}, "--item-shards 3 times --sequence-shards 1 must divide"),
        (None, {"callbacks": [3]}, "callbacks are functions of a dict, in a list; 3 is none"),
        (None, {"callbacks": None}, "callbacks are functions of a dict, in a list; None is none"),
        (None, {"callbacks": print, "model": "markov"}, "of which --model markov has none; leave"),
        (None, {"user": 0}, "no column '0' for --user-column"),
        (None, {"user": None, "user_column": "whom"}, "no column 'whom' for --user-column"),
        (None, {"user_column": "whom"}, "user and user_column are given; leave one out"),
        (None, {"run_dir": ""}, "--run-dir has an empty value; give one, or leave it out"),
        (None, {"run_dir": 0}, "--run-dir must be a string, not 0"),
        (None, {"run_dir": np.False_, "resume": True}, "run_dir=False keeps nothing to go on from"),
        (None, {"item": None, "item_column": "what", "item_vectors": {"what": ["i1"], "x": ["a"]}},
         "column 'x' holds no numbers"),
        (None, {"quiet": "no"}, "quiet must be True or False, not 'no'"),
        (None, {"columns": "user,item"}, "--columns has no meaning for data in memory"),
        (None, {"duplicates": "none"}, "--duplicates must be 'keep' or 'first' or 'last'"),
        ("ml-2m", {}, "unknown --dataset 'ml-2m'; did you mean 'ml-1m'?"),
        ("nowhere/log.csv", {}, "nowhere/log.csv: no such file"),
        (3, {}, "frame: a value of type int has no columns"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(frame, tmp_path, monkeypatch, data, options, sentence):
    monkeypatch.chdir(tmp_path)
    columns = COLUMNS if data is None else {}
    with refused(sentence):
        echojax.train(frame if data is None else data, **{"quiet": True} | columns | options)
    assert not list(tmp_path.iterdir())


def test_a_dataset_is_taken_as_it_is(frame):
    data = echojax.Dataset.from_frame(frame, **COLUMNS, k_core=2)
    for option in ({"user": "who"}, {"k_core": 2}, {"missing_ids": "drop"}):
        with pytest.raises(UserError, match="has no meaning for a Dataset; leave it out"):
            echojax.train(data, quiet=True, **option)


def test_only_a_run_folder_that_is_named_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")  # another program's
    with pytest.raises(UserError, match="unknown --model 'sasrek'"):
        echojax.train(resume=True, model="sasrek", quiet=True)


def test_a_taken_folder_and_no_run_are_mistakes(mine, frame, tmp_path):
    with pytest.raises(UserError, match="exists; add --resume"):
        echojax.train(frame, run_dir=mine.folder, **SMALL)
    with pytest.raises(UserError, match="does not exist"):
        echojax.Run.load(tmp_path / "none")


ODD = [3, None, b"runs", ["runs"], "a\0b"]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_what_is_no_path_is_a_mistake(mine, frame, tmp_path, monkeypatch, odd):
    monkeypatch.chdir(tmp_path)
    calls = [
        echojax.Run.load,
        echojax.Recommender.load,
        mine.export,
        lambda path: export_run(path, tmp_path / "model"),
        interop.read_safetensors,
        lambda path: interop.write_safetensors(path, {}),
    ]
    if odd is not None:
        calls += [
            lambda path: echojax.train(frame, recipe=path, run_dir=False, **SMALL),
            lambda path: echojax.train(frame, run_dir=path, **SMALL),
            lambda path: echojax.train(frame, init_from=path, run_dir=False, **SMALL),
            lambda path: echojax.tune(frame, recipe=path, **SMALL),
            lambda path: echojax.tune(frame, space=path, **SMALL),
            lambda path: echojax.tune(frame, out=path, **SMALL),
            lambda path: mine.recommender(data_dir=path),
            lambda path: mine.recommender(data_path=path),
            lambda path: mine.evaluate(data_dir=path),
        ]
    for call in calls:
        with pytest.raises(UserError, match=r"must be a (path|string)|can be a name") as caught:
            call(odd)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("odd", [0, -1, "3", 1.5, True, [3], {}], ids=repr)
def test_what_is_no_number_of_things_is_a_mistake(mine, frame, tmp_path, odd):
    calls = [
        lambda k: mine.recommender().recommend([["i1"]], k=k),
        lambda k: mine.recommender().similar_items("i1", k=k),
        lambda k: mine.export(tmp_path / "model", k=k),
        lambda n: mine.recommender(batch_size=n),
        lambda n: echojax.tune(frame, trials=n, out=tmp_path / "study", **SMALL),
        lambda n: echojax.tune(frame, generation=n, out=tmp_path / "study", **SMALL),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"must be (a whole number|at least 1), not"):
            call(odd)
    assert not list(tmp_path.iterdir())


def test_values_of_another_kind_are_mistakes(mine, frame):
    rec, from_frame = mine.recommender(), echojax.Dataset.from_frame
    for call, sentence in (
        (lambda: mine.evaluate(exclude_seen=3), "--exclude-seen must be True or False, not 3"),
        (lambda: mine.evaluate(prequential="yes"), "prequential must be True or False, not 'yes'"),
        (lambda: mine.evaluate(split=np.array(["test", "valid"])), "unknown split"),
        (lambda: rec.recommend(3), "histories: a list of histories is wanted, not 3"),
        (lambda: rec.recommend("i1"), "histories: a list of histories is wanted, not 'i1'"),
        (lambda: rec.recommend([["i1"]], filter="i1"), "filter must be a function of an item's id"),
        (lambda: rec.recommend([["i1"]], approx="i1"), "approx must be a number above 0"),
        (lambda: rec.recommend([["i1"]], exclude_seen=3), "exclude_seen must be True or False"),
        (lambda: rec.recommend([["i1"]], approx=True), "approx must be a number above 0"),
        (lambda: from_frame(frame, k_core=True), "--k-core must be a whole number, not True"),
        (lambda: from_frame(frame, time_format=3), "--time-format must be a string, not 3"),
        (lambda: from_frame(frame, name=None), "name must be a string, not None"),
        (lambda: interop.weights(mine), "a model is wanted, not Run("),
        (lambda: interop.write_safetensors("x", [frame]), "x: arrays are wanted by name, not [{"),
    ):
        with refused(sentence):
            call()


def test_the_reference_describes_every_public_name():
    page = (Path(echojax.__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in echojax.__all__ if not re.search(rf"\b{name}\b", page)] == []


def test_importing_echojax_is_cheap():
    program = "import json, sys, echojax; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"jax", "numpy", "polars", "tyro"} & set(json.loads(done.stdout))
    assert {"Dataset", "Run", "compare", "train"} <= set(dir(echojax))
