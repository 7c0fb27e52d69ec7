"""The run of a model that counts: fitted in one pass, judged and reported like the others."""

import time
from pathlib import Path

from rich.console import Console

from echojax.config import Config
from echojax.data import Dataset, Split
from echojax.evaluation.baselines import rank_by, scorer
from echojax.models import HEURISTICS
from echojax.training.progress import Standing
from echojax.training.results import PARTS, finish


def count(folder: Path, config: Config, dataset: Dataset, split: Split, console: Console) -> None:
    """Fit, evaluate and report a heuristic model."""
    began = time.perf_counter()
    score = scorer(HEURISTICS[config.model](split.train, dataset.num_items))
    standing = Standing(seconds=time.perf_counter() - began, examples=len(split.train))
    ranked = {
        part: rank_by(
            score, getattr(split, part), dataset.num_items, exclude_seen=config.exclude_seen
        )
        for part in PARTS
    }
    finish(folder, config, dataset, split, ranked, standing, "counted", console)
