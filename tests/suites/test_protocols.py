"""Real runs under alternative protocols, against the runs' own results and brute force."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from echojax.config import Config
from echojax.evaluation.baselines import rank_by
from echojax.evaluation.metrics import SHOWN, metrics_of
from echojax.evaluation.sampled import draw_negatives
from echojax.models import HEURISTICS
from echojax.suites.protocols import evaluate_if_missing
from echojax.suites.results import Protocol, read_alternatives, read_run_folder
from echojax.suites.scores import COLUMNS
from echojax.training.builders import read_data, resolved
from echojax.training.evaluate import evaluate_run
from echojax.training.run import run
from tests.conftest import refused, write_events


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    """Return a file of 40 users who walk around a ring of 150 items."""
    rng, rows = np.random.default_rng(0), []
    for user in range(40):
        item = rng.integers(150)
        for time in range(rng.integers(30, 50)):
            item = (item + 1 + (rng.random() < 0.2)) % 150
            rows.append((f"u{user}", f"i{item}", 7 * time + user))
    return write_events(tmp_path_factory.mktemp("data") / "ring.inter", rows)


@pytest.fixture(scope="module")
def runs(data_file, tmp_path_factory):
    """Return the folders of a heuristic and of a learned model."""
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
        assert evaluate_if_missing(folder / model, None)
    return folder


def alternative(folder, ranking, exclude_seen):
    found = read_run_folder(folder).evaluations
    return found[Protocol("global-time", ranking, exclude_seen)].test


@pytest.mark.parametrize("model", ["markov", "sasrec"])
def test_rankings_agree_with_the_run_and_a_few_negatives_flatter(model, runs):
    results = json.loads((runs / model / "results.json").read_text())["test"]
    same = alternative(runs / model, "full", False)
    assert same["examples"] == results["examples"] > 40
    for metric in SHOWN:
        assert same[metric] == results[metric]
        assert same["interval"][metric] == results["interval"][metric]
    filtered = alternative(runs / model, "full", True)
    if model == "sasrec":  # what evaluate prints
        again = evaluate_run(runs / model, "test", exclude_seen=True)
        assert [filtered[metric] for metric in SHOWN] == [again[metric] for metric in SHOWN]
    for name in ("uniform", "popularity"):
        sampled = alternative(runs / model, f"100 sampled, {name}", True)
        assert sampled["hr@10"] >= filtered["hr@10"]
        low, high = sampled["interval"]["hr@10"]
        assert low <= sampled["hr@10"] <= high


def test_ranks_of_a_heuristic_model_equal_brute_force(runs):
    config = resolved(Config(**json.loads((runs / "markov" / "config.json").read_text())))
    dataset, split = read_data(config)
    score = HEURISTICS["markov"](split.train, dataset.num_items)
    negatives = draw_negatives(split.test, dataset.num_items)
    hits = []
    for m in range(len(split.test)):
        scores = score(split.test, np.array([m]))[0]
        target = split.test.items_T[split.test.target_M[m]]
        drawn = [v for v in negatives[m] if v]
        hits.append(1 + sum(not scores[v] < scores[target] for v in drawn) <= 10)
    sampled = alternative(runs / "markov", "100 sampled, uniform", True)
    assert sampled["hr@10"] == pytest.approx(np.mean(hits))
    # The run's own test ranks come from the same rule.
    ranks = rank_by(score, split.test, dataset.num_items, exclude_seen=False).rank_M
    own = read_run_folder(runs / "markov").ranks[False].rank_M
    np.testing.assert_array_equal(own, ranks)


def test_it_is_evaluated_once_until_the_results_change(runs, tmp_path):
    folder = tmp_path / "markov"
    shutil.copytree(runs / "markov", folder)
    before = read_alternatives(folder)
    assert len(before) == 4
    assert not evaluate_if_missing(folder, None)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results))  # other bytes, as of another run
    assert read_alternatives(folder) == []
    assert evaluate_if_missing(folder, None)
    assert read_alternatives(folder) == before


@pytest.mark.parametrize("model", ["markov", "sasrec"])
def test_ranks_are_kept_with_seen_items_treated_the_other_way(model, runs, tmp_path):
    other = Protocol("global-time", "full", True)
    run = read_run_folder(runs / model)
    assert [one for one, found in run.evaluations.items() if found.ranks] == [None, other]
    own, kept = run.evaluations[None], run.evaluations[other]
    means = metrics_of(kept.ranks.rank_M).mean(axis=0)[COLUMNS]
    np.testing.assert_array_equal(kept.ranks.user_M, own.ranks.user_M)
    np.testing.assert_array_equal(kept.ranks.length_M, own.ranks.length_M)
    assert list(means) == [kept.test[metric] for metric in SHOWN]
    folder = tmp_path / model
    shutil.copytree(runs / model, folder)
    (folder / "protocols.npz").unlink()  # as early versions left it
    assert [one.ranks for one in list(read_run_folder(folder).evaluations.values())[1:]] == [
        None
    ] * 4
    path = folder / "protocols.json"
    path.write_text(path.read_text().replace('"examples"', '"example"'))
    with refused("protocols.json does not hold how a run was"):
        read_run_folder(folder)


@pytest.mark.parametrize("lost", ["all", "best"])
def test_a_lost_checkpoint_is_said(lost, runs, tmp_path):
    folder = tmp_path / "sasrec"
    shutil.copytree(runs / "sasrec", folder)
    best = json.loads((folder / "results.json").read_text())["train"]["best_step"]
    shutil.rmtree(folder / "checkpoints" / (str(best) if lost == "best" else ""))
    for file in folder.glob("protocols.*"):
        file.unlink()
    with refused("has lost the checkpoint of its best step"):
        evaluate_if_missing(folder, None)
    assert not list(folder.glob("protocols.*"))
