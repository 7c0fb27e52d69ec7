"""Several runs that differ in seed and continuous flags, trained together, an epoch at a time.

An accelerator trains all of its members at once, by ``vmap``. On a CPU, whose cores are busy with
one member, every device trains one at a time, for an epoch each, in one program that is compiled
once. A member that has stopped leaves the group and costs nothing: on a CPU the others go on in the
same program, and an accelerator's program is compiled once for each number of members.
"""

import dataclasses
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from echojax import keep_root_handlers
from echojax.config import Config, as_flags
from echojax.data import Dataset, Split
from echojax.errors import OutOfMemoryError, UserError, memory_failure_is_user_error
from echojax.mesh import axes_of, make_mesh, mesh_words, one_device, place
from echojax.models import OURS, build_model
from echojax.run_files import read_records
from echojax.signals import Interrupts, deferred_interrupts
from echojax.training.builders import learned_vectors, make_step, target_counts, training_batches
from echojax.training.evaluate import make_evaluator
from echojax.training.loop import GroupStep, Loop
from echojax.training.optimizer import make_optimizer, most_steps
from echojax.training.profile import Profile
from echojax.training.progress import Display
from echojax.training.run import open_runs
from echojax.training.run_folder import create_or_resume_run_dir, fill_folders
from echojax.training.seed_run import SeedRun, earliest
from echojax.training.step import TrainState, over_members

log = logging.getLogger(__name__)

KNOBS = ("learning_rate", "dropout", "weight_decay", "label_smoothing")

# Takes an epoch and the validation NDCG@10 of each member that has one, by the member's index;
# returns the indices of the members that stop.
Decide = Callable[[int, dict[int, float]], Iterable[int]]


@dataclass(frozen=True)
class Outcome:
    """How a member's training went."""

    history: dict[int, float]  # validation NDCG@10 by epoch
    best_epoch: int  # the epoch of the highest one, 0 without a validation
    ended: str  # why training ended
    # Whether a loss or an update was not finite, or memory did not suffice; ``history`` then ends
    # before that.
    failed: bool
    steps: int = 0
    # Its share of the seconds that the members which were trained at once spent in training steps.
    seconds: float = 0.0


def most_epochs(config: Config, split: Split) -> int:
    """Return how many epochs a member trains unless it stops early; the last may be cut short."""
    per_epoch = training_batches(config, split, one_device()).per_epoch
    return math.ceil(most_steps(config, per_epoch) / per_epoch)


def program_key(config: Config) -> Hashable:
    """Return a key that is equal for resolved configurations which can train in one program.

    They may differ in the seed, the folder and ``KNOBS``. A user's own model may depend on its
    dropout rate in ways that cannot be traced, such as ``if rate:``; there the rate must be equal.
    """
    free = {"seed", "run_dir", "resume", *KNOBS}
    if config.model not in OURS:
        free.remove("dropout")
    return tuple(sorted((k, v) for k, v in as_flags(config).items() if k not in free))


@keep_root_handlers()
def train_members(
    configs: Sequence[Config],
    dataset: Dataset,
    split: Split,
    folders: Sequence[Path],
    console: Console,
    *,
    decide: Decide | None = None,
    stopped_line: str = "stopped and saved; the same call goes on",
) -> list[Outcome]:
    """Train members to their ends, or as far as ``decide`` lets them, without the test set.

    Each configuration is resolved, and is of one seed and of a model that is trained. Those with
    the same ``program_key`` train in one program. The programs take turns, so that all members
    reach the end of an epoch before any begins the next. A member is trained as it would be alone,
    up to rounding. Its run folder is created or resumed, and holds ``config.json``,
    ``items.json``, ``metrics.jsonl`` and checkpoints.

    ``decide`` is called once for each epoch that ends with a validation, in order, when all members
    have reached it. After a resume it is called for the earlier epochs again, with the same scores,
    so that decisions which depend on the scores alone are the same after a kill. ``stopped_line``
    is the message when a signal to stop comes.
    """
    if jax.process_count() > 1:
        raise UserError("several members are trained by one process; leave --coordinator out")
    with ExitStack() as held, deferred_interrupts(stopped_line) as interrupts:
        groups: dict[Hashable, dict[Path, Config]] = defaultdict(dict)
        for config, folder in zip(configs, folders, strict=True):
            given = dataclasses.replace(config, run_dir=str(folder), resume=True)
            held.enter_context(create_or_resume_run_dir(given))
            fill_folders({folder: config}, dataset, gap_unit=split.gap_unit)
            groups[program_key(config)][folder] = given
        teams, no_room = list[_Team](), dict[Path, str]()
        for members in groups.values():
            try:
                with memory_failure_is_user_error():
                    teams.append(_Team(members, dataset, split, console, interrupts))
            except OutOfMemoryError as error:
                no_room |= dict.fromkeys(members, str(error))
        by_folder = {run.folder: run for team in teams for run in team.runs}
        runs = {i: by_folder[own] for i, own in enumerate(folders) if own not in no_room}
        for run in runs.values():
            held.enter_context(closing(run.checkpoints))
        for epoch in range(1, max(most_epochs(config, split) for config in configs) + 1):
            for team in teams:
                team.train(epoch)
            scores = {i: run.history[epoch] for i, run in runs.items() if epoch in run.history}
            for i in decide(epoch, scores) if decide is not None and scores else ():
                runs[i].ended = runs[i].stop_reason() or "stopped by the search"
                runs[i].history = {e: ndcg for e, ndcg in runs[i].history.items() if e <= epoch}
        interrupts.stop_for(interrupts.signum)  # one may have come after the last step
    return [
        _outcome(runs[i]) if i in runs else Outcome({}, 0, no_room[folder], failed=True)
        for i, folder in enumerate(folders)
    ]


def _outcome(run: SeedRun) -> Outcome:
    best = max(run.history, key=lambda epoch: (run.history[epoch], -epoch), default=0)
    progress, ended = run.progress, run.stop_reason() or ""
    return Outcome(run.history, best, ended, run.failed, progress.steps, progress.share)


class _Team:
    """Members that train in one program."""

    def __init__(
        self,
        members: Mapping[Path, Config],
        dataset: Dataset,
        split: Split,
        console: Console,
        interrupts: Interrupts,
    ):
        first, config = next(iter(members.items()))
        self._config = config
        shards: dict[str, Any] = {
            "item_shards": config.item_shards,
            "sequence_shards": config.sequence_shards,
        }
        self._dataset = dataset
        self._shards, mesh = shards, make_mesh(**shards)
        self._lanes = mesh.size // math.prod(shards.values())
        feed = training_batches(config, split, one_device())
        self._per_epoch, self._lengths_M = feed.per_epoch, feed.examples.lengths_M
        self._counts_V, self._num_items = target_counts(dataset, split), dataset.num_learned
        graphdef, self.runs = open_runs(config, members, dataset, feed.per_epoch, _go_back)
        for run in self.runs:
            run.ends_alone = True
        values = {name: {getattr(one, name) for one in members.values()} for name in KNOBS}
        self._varying = [name for name, different in values.items() if len(different) > 1]
        # If only some members have weight decay, the program's state has the structure of theirs.
        decaying = max(self.runs, key=lambda run: run.config.weight_decay)
        self._structure = jax.tree.structure(decaying.state)
        self._loop = Loop(
            dataclasses.replace(config, parallel="shard_map"),
            split,
            self._step_of,
            make_evaluator(config, dataset, split, graphdef, mesh),
            Display(console),
            interrupts,
            Profile(0, first),
        )
        differ = ", ".join(self._varying) or "their seeds"
        log.info(f"{len(members)} x {config.model} on {mesh_words(mesh)}; they differ in {differ}")

    def train(self, epoch: int) -> None:
        """Train all members that have not ended until the end of an epoch."""
        end = epoch * self._per_epoch
        while group := earliest(run for run in self.runs if run.progress.steps < end):
            group = group[: self._at_once(len(group))]
            try:
                with memory_failure_is_user_error():
                    self._loop.train(group, epoch)
            except OutOfMemoryError as error:
                many = f" ({len(group)} were trained at once)" if len(group) > 1 else ""
                for run in group:
                    run.ended, run.failed = f"{error}{many}", True

    def _at_once(self, members: int) -> int:
        """Return how many of the given number of members train at once, equally many a device."""
        if members < self._lanes or jax.default_backend() == "cpu":
            return min(members, self._lanes)
        return members // self._lanes * self._lanes

    def _step_of(self, group: Sequence[SeedRun]) -> GroupStep:
        lanes = min(len(group), self._lanes)
        devices = jax.devices()[: lanes * math.prod(self._shards.values())]
        mesh = make_mesh(devices, members=lanes, **self._shards)

        def step(state: TrainState, batch: Any, knobs: dict[str, Any], vectors: Any) -> Any:
            config = dataclasses.replace(self._config, **knobs)
            # Only this model's structure and dropout rates are used.
            graphdef, _, rates = nnx.split(build_model(config, self._num_items), nnx.Variable, ...)
            optimizer = make_optimizer(config, axes_of(mesh).items, steps_per_epoch=self._per_epoch)
            one = make_step(
                config, self._counts_V, self._lengths_M, graphdef, optimizer, mesh, [rates]
            )
            return one(state, batch, vectors)

        knobs = {
            name: np.array([getattr(run.config, name) for run in group], np.float32)
            for name in self._varying
        }
        inputs = [learned_vectors(self._dataset, mesh), place(knobs, mesh, axis=1)]
        return GroupStep(over_members(step, mesh), mesh, self._structure, inputs)


def _go_back(runs: Sequence[SeedRun]) -> None:
    """Resume each member from its newest checkpoint; those that are behind catch up."""
    for run in runs:
        run.go_back(run.state)
        records = read_records(run.folder / "metrics.jsonl")
        run.history = {
            record["epoch"]: record["ndcg@10"]
            for record in records
            if record["kind"] == "valid" and record["step"] <= run.progress.steps
        }
