"""The training loop: it trains runs at the same step in one program, validates and saves them."""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from echojax.config import Config
from echojax.data import Split, StackedBatches, iterate
from echojax.errors import UserError
from echojax.evaluation.metrics import mean_metrics
from echojax.given import given_truth
from echojax.hosts import on_main_process
from echojax.machine import commit, device_name
from echojax.mesh import gather, local_groups, place, spread, stack_shares
from echojax.signals import Interrupts
from echojax.training.builders import training_batches
from echojax.training.evaluate import Evaluator
from echojax.training.profile import Profile
from echojax.training.progress import Display, MetricLog
from echojax.training.seed_run import SeedRun
from echojax.training.step import (
    CompiledStep,
    TrainState,
    compile_step,
    stack_states,
    unstack_states,
)

log = logging.getLogger(__name__)

# Takes the metrics of a validation, and returns whether training is to stop.
Callback = Callable[[dict[str, Any]], object]


class GroupStep(NamedTuple):
    """What computes the next step of runs that are trained in one program."""

    steps: Any  # from ``over_members``
    mesh: Mesh  # the devices that it is mapped over
    # The tree structure of a state that ``steps`` takes; a run's own state may have other nodes
    # around the same arrays.
    structure: Any
    # Further arguments of ``steps``: the items' vectors or ``None``, and values stacked over runs.
    inputs: Sequence[Any]


class _Group(NamedTuple):
    """Runs in training."""

    runs: Sequence[SeedRun]
    mesh: Mesh
    batches: StackedBatches
    rows: Iterator[Any]
    program: CompiledStep
    inputs: Sequence[Any]

    def of_each(self, states: TrainState) -> Iterator[tuple[SeedRun, TrainState]]:
        """Yield the runs that have not failed, with their own states."""
        for run, state in zip(self.runs, unstack_states(states), strict=True):
            if not run.failed:
                structure = jax.tree.structure(run.state)
                yield run, jax.tree.unflatten(structure, jax.tree.leaves(state))


@dataclass
class Loop:
    """Trains runs in one program, validates and saves them."""

    config: Config  # what the runs have in common
    split: Split
    step_of: Callable[[Sequence[SeedRun]], GroupStep]  # one program for each number of runs
    evaluate: Evaluator
    display: Display
    interrupts: Interrupts
    profile: Profile
    callbacks: Sequence[Callback] = ()
    _programs: dict[int, CompiledStep] = field(default_factory=dict)  # by the number of runs

    def train(self, runs: Sequence[SeedRun], last_epoch: float = math.inf) -> None:
        """Train runs that are at the same step until one has a reason to stop, or an epoch ends.

        They all have this loop's configuration, except for the seed and the step's inputs.
        """
        done, per_epoch = runs[0].progress.steps, runs[0].per_epoch
        steps, mesh, structure, inputs = self.step_of(runs)
        batches = StackedBatches(
            tuple(training_batches(run.config, self.split, mesh) for run in runs)
        )
        alike = [jax.tree.unflatten(structure, jax.tree.leaves(run.state)) for run in runs]
        states = place(stack_states(alike), mesh, axis=1)
        if len(runs) not in self._programs:
            program = compile_step(steps, states, *self._on_devices(batches[0], 0, mesh), *inputs)
            self.profile.record_program(program)
            self._programs[len(runs)] = program
        program, origin = self._programs[len(runs)], (device_name(), commit())
        with ExitStack() as files:
            rows = files.enter_context(
                closing(iterate(batches, done, workers=self.config.data_workers))
            )
            group = _Group(runs, mesh, batches, rows, program, inputs)
            for run in runs:
                run.progress.record_origin(*origin)
                run.progress.record_program(program.memory_bytes, len(runs))
                records = MetricLog(run.folder, run.progress.steps, run.config)
                run.metrics = files.enter_context(records)
            while all(run.stop_reason() is None for run in runs) and done < last_epoch * per_epoch:
                epoch, most_steps = done // per_epoch + 1, self.config.max_steps
                end = min(epoch * per_epoch, most_steps or epoch * per_epoch)
                with self.display.epoch(epoch, per_epoch, done % per_epoch):
                    states, signum = self._train_epoch(group, states, done, end)
                done = end
                self._end_epoch(group, states, epoch, whole=end == epoch * per_epoch)
                self.interrupts.stop_for(signum)
        for run, state in group.of_each(states):
            run.state = gather(state, run.state, mesh)

    def _on_devices(self, batch: Any, signum: int, mesh: Mesh) -> tuple[Any, Any]:
        """Return a batch, and the signal that this host got, as the step takes them."""
        onto = stack_shares if self.config.parallel == "pmap" else spread
        signal_D = np.full(local_groups(mesh), signum, np.int32)
        return onto(batch, mesh, axis=1), onto(signal_D, mesh)

    def _train_epoch(
        self, group: _Group, states: TrainState, first: int, end: int
    ) -> tuple[TrainState, int]:
        """Train from step ``first`` to ``end`` of one epoch; return the signal that came, or 0."""
        runs, per_epoch = group.runs, group.runs[0].per_epoch
        epoch, last, signum = first // per_epoch + 1, None, 0
        began, examples, waited = time.perf_counter(), 0, 0.0
        for number in range(first, end):
            began += self.profile.next_step(states)
            wanted = time.perf_counter()
            with self.profile.waiting():
                batch = _next_batch(group.rows)
            waited += time.perf_counter() - wanted
            examples += group.batches.parts[0].count(number)  # of one run, as of each
            given = self._on_devices(batch, self.interrupts.signum, group.mesh)
            states, *outcome = group.program.run(states, *given, *group.inputs)
            if last is not None:  # read one step late: the device is never idle
                signum = _record_losses(runs, last, number)
            last = outcome
            rate = examples / (time.perf_counter() - began) if number > first else math.nan
            loss = float(np.mean([run.progress.mean_loss for run in runs]))
            self.display.step(epoch, number % per_epoch + 1, per_epoch, loss, rate * len(runs))
            done = number + 1
            if done == end or signum or done % self.config.checkpoint_every == 0:
                signum, last, now = _record_losses(runs, last, done), None, time.perf_counter()
                _record_speed(runs, done / per_epoch, examples, now - began, waited)
                began, examples, waited = now, 0, 0.0
                if done < end:
                    for run, state in group.of_each(states):
                        with run.divergence():
                            run.save(run.finite(gather(state, run.state, group.mesh)))
                    self.interrupts.stop_for(signum)
        self.profile.end_epoch(states)
        return states, signum

    def _end_epoch(self, group: _Group, states: TrainState, epoch: int, whole: bool) -> None:
        """Validate, if it is time, and save; ``whole``: all steps of the epoch were done."""
        for run, state in group.of_each(states):
            with run.divergence():
                saved = run.finite(gather(state, run.state, group.mesh))
                if not epoch % self.config.eval_every or run.stop_reason() is not None:
                    ready = self.evaluate.mesh == group.mesh and not self.evaluate.item_vectors
                    params = state.params if ready else self.evaluate.placed(saved.params)
                    self._validate(run, params, epoch)
                if whole:
                    run.progress.epoch_loss, run.progress.epoch_steps = 0.0, 0
                run.save(saved)

    def _validate(self, run: SeedRun, params: Any, epoch: int) -> None:
        began, progress = time.perf_counter(), run.progress
        metrics = mean_metrics(self.evaluate.rank(params, "valid").rank_M)
        ndcg, loss = metrics["ndcg@10"], progress.mean_loss
        best = progress.add_validation(ndcg, epoch)
        run.history[epoch] = ndcg
        seconds = time.perf_counter() - began
        record = run.write_metrics("valid", epoch, loss=loss, **metrics, seconds=seconds)
        log.info(
            f"{run.name and run.name + '  '}epoch {epoch}  loss {loss:.4f}  "
            f"valid HR@10 {metrics['hr@10']:.4f}  "
            f"NDCG@10 {ndcg:.4f}{'  best so far' if best else ''}"
        )
        record = {"seed": run.config.seed, **record}
        wants_to_stop = [given_truth("a callback", one(dict(record))) for one in self.callbacks]
        if on_main_process(any, wants_to_stop):
            run.ended = "a callback stopped it"


def _record_losses(runs: Sequence[SeedRun], outcome: list[jax.Array], step: int) -> int:
    """Record the losses of a step; return the signal that some host got, the same on all hosts."""
    losses, signum = outcome
    for run, loss in zip(runs, np.asarray(losses).tolist(), strict=True):
        if not run.failed:
            with run.divergence():
                run.record_loss(loss, step)
    return int(signum)


def _record_speed(
    runs: Sequence[SeedRun], epoch: float, examples: int, seconds: float, waited: float
) -> None:
    for run in runs:
        if not run.failed:
            run.progress.seconds += seconds
            run.progress.share += seconds / len(runs)
            run.progress.waited += waited
            run.progress.examples += examples
            run.write_metrics(
                "train",
                epoch,
                loss=run.progress.mean_loss,
                examples_per_second=examples / seconds,
                seconds=seconds,
            )


def _next_batch(rows: Iterator[Any]) -> Any:
    """Return the next batch; ``UserError`` where a process that prepares them has ended."""
    try:
        return next(rows)
    except RuntimeError as error:
        if not (found := re.search("Worker process was terminated .* code (-?)", str(error))):
            raise
        if not found[1]:  # no signal: it has failed by itself, and printed why
            raise UserError(
                "a process of --data-workers failed; where a script calls echojax, it must do so "
                "below if __name__ == '__main__':, since each process starts the script again"
            ) from None
        raise UserError(
            "a process of --data-workers was killed, maybe for lack of memory; go on with --resume "
            "and fewer --data-workers"
        ) from None
