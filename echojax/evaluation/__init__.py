"""Evaluation by full ranking: ranks, metrics, intervals, baselines."""

from echojax.evaluation.baselines import evaluate_baselines, rank_in_scores
from echojax.evaluation.metrics import CUTOFFS, metric_names, summarise
from echojax.evaluation.ranking import Ranked, make_ranker, rank_examples
from echojax.evaluation.statistics import bootstrap_intervals, paired_difference

__all__ = [
    "CUTOFFS",
    "Ranked",
    "bootstrap_intervals",
    "evaluate_baselines",
    "make_ranker",
    "metric_names",
    "paired_difference",
    "rank_examples",
    "rank_in_scores",
    "summarise",
]
