"""Real runs judged in other ways, against what the runs themselves and brute force say."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from echojax.config import Config
from echojax.errors import UserError
from echojax.evaluation.baselines import rank_by, scorer
from echojax.evaluation.sampled import draw_negatives
from echojax.models import HEURISTICS
from echojax.reproduction.finished import COLUMNS, METRICS, read_finished
from echojax.reproduction.protocols import Way, judge_if_missing, read_judged
from echojax.training.builders import read_data, resolved
from echojax.training.evaluate import evaluate_run
from echojax.training.run import run


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    """Return a file of 40 users who walk around a ring of 150 items."""
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(40):
        item = rng.integers(150)
        for time in range(rng.integers(30, 50)):
            item = (item + 1 + (rng.random() < 0.2)) % 150
            lines.append(f"u{user}\ti{item}\t{7 * time + user}")
    path = tmp_path_factory.mktemp("data") / "ring.inter"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def runs(data_file, tmp_path_factory):
    """Return the folders of a run that counts and of one that learns."""
    folder = tmp_path_factory.mktemp("runs")
    base = Config(
        data_path=str(data_file), k_core=2, max_len=8, batch_size=16, learning_rate=0.01, epochs=3,
        split="global-time",
    )  # fmt: skip
    sizes = {"markov": {}, "sasrec": {"d_model": 8, "layers": 1, "heads": 1, "dropout": 0.0}}
    for model, size in sizes.items():
        run(
            dataclasses.replace(base, model=model, run_dir=str(folder / model), **size),
            Console(file=io.StringIO()),
        )
        assert judge_if_missing(folder / model, None)
    return folder


def way(judged, ranking, exclude_seen):
    return judged[Way("global-time", ranking, exclude_seen)].results["test"]


@pytest.mark.parametrize("model", ["markov", "sasrec"])
def test_full_ranking_is_what_the_run_says_itself(model, runs):
    judged = read_judged(runs / model)
    results = json.loads((runs / model / "results.json").read_text())["test"]
    same = way(judged, "full", False)
    assert same["examples"] == results["examples"] > 40
    for metric in ("hr@10", "ndcg@10"):
        assert same[metric] == results[metric]
        assert same["interval"][metric] == results["interval"][metric]


def test_seen_items_out_is_what_evaluate_says(runs):
    judged = way(read_judged(runs / "sasrec"), "full", True)
    again = evaluate_run(runs / "sasrec", "test", exclude_seen=True, say=lambda line: None)
    assert judged["ndcg@10"] == again["ndcg@10"]
    assert judged["hr@10"] == again["hr@10"]


def test_sampled_metrics_of_a_counted_model_equal_brute_force(runs):
    config = resolved(Config(**json.loads((runs / "markov" / "config.json").read_text())))
    dataset, split = read_data(config, lambda line: None)
    score = scorer(HEURISTICS["markov"](split.train, dataset.num_items))
    negatives = draw_negatives(split.test, dataset.num_items)
    hits = []
    for m in range(len(split.test)):
        scores = score(split.test, np.array([m]))[0]
        target = split.test.items_T[split.test.target_M[m]]
        drawn = [v for v in negatives[m] if v]
        hits.append(1 + sum(not scores[v] < scores[target] for v in drawn) <= 10)
    judged = read_judged(runs / "markov")
    assert way(judged, "100 sampled, uniform", True)["hr@10"] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("model", ["markov", "sasrec"])
def test_a_few_negatives_flatter(model, runs):
    judged = read_judged(runs / model)
    full = way(judged, "full", True)
    for name in ("uniform", "popularity"):
        sampled = way(judged, f"100 sampled, {name}", True)
        assert sampled["hr@10"] >= full["hr@10"]
        low, high = sampled["interval"]["hr@10"]
        assert low <= sampled["hr@10"] <= high


def test_it_is_judged_once_until_the_results_change(runs, tmp_path):
    folder = tmp_path / "markov"
    shutil.copytree(runs / "markov", folder)
    before = read_judged(folder)
    assert not judge_if_missing(folder, None)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results))  # other bytes, as of another run
    assert read_judged(folder) == {}
    assert judge_if_missing(folder, None)
    after = read_judged(folder)
    assert {way: one.results for way, one in after.items()} == {
        way: one.results for way, one in before.items()
    }


@pytest.mark.parametrize("model", ["markov", "sasrec"])
def test_ranks_are_kept_with_seen_items_on_the_other_side(model, runs, tmp_path):
    other_side = Way("global-time", "full", True)
    judged = read_judged(runs / model)
    assert [way for way, one in judged.items() if one.ranks] == [other_side]
    kept, means = judged[other_side], judged[other_side].ranks.values_MxF.mean(axis=0)[COLUMNS]
    assert kept.ranks.same_targets(read_finished(runs / model).ranks)
    assert list(means) == [kept.results["test"][metric] for metric in METRICS]
    folder = tmp_path / model
    shutil.copytree(runs / model, folder)
    (folder / "protocols.npz").unlink()  # as early versions left it
    assert [one.ranks for one in read_judged(folder).values()] == [None] * 4
    (folder / "protocols.json").write_text(
        (folder / "protocols.json").read_text().replace('"examples"', '"example"')
    )
    with pytest.raises(UserError, match=r"protocols\.json does not hold how a run was judged"):
        read_judged(folder)


@pytest.mark.parametrize("lost", ["all", "best"])
def test_a_lost_checkpoint_is_said(lost, runs, tmp_path):
    folder = tmp_path / "sasrec"
    shutil.copytree(runs / "sasrec", folder)
    best = json.loads((folder / "results.json").read_text())["train"]["best_step"]
    shutil.rmtree(folder / "checkpoints" / (str(best) if lost == "best" else ""))
    for file in folder.glob("protocols.*"):
        file.unlink()
    with pytest.raises(UserError, match="has lost the checkpoint of its best step"):
        judge_if_missing(folder, None)
    assert not list(folder.glob("protocols.*"))


def test_ranks_of_the_counted_model_are_the_evaluators(runs):
    """The run's own test ranks and those judged here come from one rule."""
    config = resolved(Config(**json.loads((runs / "markov" / "config.json").read_text())))
    dataset, split = read_data(config, lambda line: None)
    score = scorer(HEURISTICS["markov"](split.train, dataset.num_items))
    ranks = rank_by(score, split.test, dataset.num_items, exclude_seen=False).rank_M
    with np.load(runs / "markov" / "ranks.npz") as file:
        np.testing.assert_array_equal(file["test_rank_M"], ranks)
