"""The training loop: steps, validations, checkpoints, early stopping, of one seed or several."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from echojax.config import Config
from echojax.data import Batches, StackedBatches, iterate
from echojax.evaluation.metrics import metric_names
from echojax.machine import commit, device_name
from echojax.mesh import gather, local_groups, place, spread, stack_shares
from echojax.training.interrupts import Interrupted, Interrupts
from echojax.training.metric_log import MetricLog
from echojax.training.objectives import Batch
from echojax.training.profile import Profile
from echojax.training.program import memory_of
from echojax.training.progress import Display
from echojax.training.seed_run import SeedRun, stacked, unstacked
from echojax.training.state import TrainState


@dataclass
class Trainer:
    """What runs train with; ``train`` is the loop.

    Args:
        config: of all seeds; a seed's own is in its ``SeedRun``.
        compile: returns the program of ``side_by_side`` for arguments like the given ones.
        feed: returns all epochs' batches of a seed's run, by number.
        mesh: the devices that batches are spread over.
        validate: returns the validation metrics of a state's parameters.
        resume_line: the command that goes on with this run.
        profile: watches the steps.
    """

    config: Config
    compile: Callable[..., Any]
    feed: Callable[[Config], Batches]
    mesh: Mesh
    validate: Callable[[TrainState], dict[str, float]]
    display: Display
    interrupts: Interrupts
    resume_line: str
    profile: Profile

    def train(self, runs: Sequence[SeedRun]) -> None:
        """Train every seed until it has a reason to stop; a finished one leaves the others.

        Those that stand at one step are trained side by side, the earliest first.

        Raises:
            UserError: a loss or a state is not finite, or the disk is full.
            Interrupted: a signal came; everything is saved.
        """
        per_epoch = self.feed(runs[0].config).per_epoch
        origin = device_name(), commit()
        for run in runs:
            if run.stop_reason(per_epoch) is None:
                run.standing.note_origin(*origin)
        while active := [run for run in runs if run.stop_reason(per_epoch) is None]:
            earliest = min(run.standing.steps for run in active)
            group = [run for run in active if run.standing.steps == earliest]
            with ExitStack() as logs:
                self._train_together(group, [logs.enter_context(run.open_log()) for run in group])
        for run in runs:
            run.stopped = run.stop_reason(per_epoch) or ""
            of = f" of seed {run.config.seed}" if len(runs) > 1 else ""
            self.display.say(f"training{of} ended: {run.stopped}")
        self.profile.end_run()

    def place(self, batch: Any, signum: int) -> tuple[Any, Any]:
        """Return a batch, and what this host asks, as the step takes them."""
        onto = stack_shares if self.config.parallel == "pmap" else spread
        asked_D = np.full(local_groups(self.mesh), signum, np.int32)
        return onto(batch, self.mesh, axis=1), onto(asked_D, self.mesh)

    def _train_together(self, runs: list[SeedRun], logs: list[MetricLog]) -> None:
        """Train seeds side by side until one of them is finished."""
        batches = StackedBatches(tuple(self.feed(run.config) for run in runs))
        per_epoch, done = batches.per_epoch, runs[0].standing.steps
        states = place(stacked([run.state for run in runs]), self.mesh, axis=1)
        step = self.compile(states, *self.place(batches[0], 0))
        for run in runs:
            run.standing.note_program(memory_of(step), len(runs))
        epochs = _Epochs(self, runs, logs, step, batches)
        with closing(iterate(batches, done, workers=self.config.data_workers)) as rows:
            while all(run.stop_reason(per_epoch) is None for run in runs):
                stop = (done // per_epoch + 1) * per_epoch
                if self.config.max_steps is not None:
                    stop = min(stop, self.config.max_steps)
                states = epochs.run(states, rows, done, stop)
                done = stop
        for run, state in zip(runs, unstacked(states), strict=True):
            run.state = gather(state, run.state, self.mesh)


@dataclass
class _Epochs:
    """Epochs of seeds that train side by side."""

    trainer: Trainer
    runs: list[SeedRun]
    logs: list[MetricLog]
    step: Callable[..., Any]
    batches: StackedBatches
    asked: int = 0  # the signal that some host got, known to all

    def run(self, states: TrainState, rows: Iterator[Batch], done: int, stop: int) -> TrainState:
        """Train from step ``done`` to ``stop``, of one epoch; validate and save."""
        per_epoch = self.batches.per_epoch
        epoch = done // per_epoch + 1
        with self.trainer.display.epoch(epoch, per_epoch, done % per_epoch):
            states = self._steps(states, rows, done, stop)
        for run, log, state in zip(self.runs, self.logs, unstacked(states), strict=True):
            self._end_of_epoch(run, log, state, epoch, reached=stop % self.batches.per_epoch == 0)
        self._leave_if_asked()
        return states

    def _steps(self, states: TrainState, rows: Iterator[Batch], done: int, stop: int) -> TrainState:
        epoch, first = done // self.batches.per_epoch + 1, done
        last, began = None, time.perf_counter()
        examples, waited = 0, 0.0
        for step in range(done, stop):
            began += self.trainer.profile.next_step(states)
            wanted = time.perf_counter()
            with self.trainer.profile.waiting():
                batch = next(rows)
            waited += time.perf_counter() - wanted
            examples += self.batches.count(step)
            placed = self.trainer.place(batch, self.trainer.interrupts.signum or 0)
            states, *outcome = self.step(states, *placed)
            if last is not None:  # read one step late: the device is never idle
                self._count(last, step)
            last = outcome
            rate = examples / (time.perf_counter() - began) if step > first else math.nan
            self._show(epoch, step % self.batches.per_epoch + 1, rate)
            due = (step + 1) % self.trainer.config.checkpoint_every == 0
            if (save := step + 1 < stop and (self.asked or due)) or step + 1 == stop:
                self._count(last, step + 1)
                last, now = None, time.perf_counter()
                self._log_training(step + 1, examples, now - began, waited)
                began, examples, waited = now, 0, 0.0
                if save:
                    for run, state in zip(self.runs, unstacked(states), strict=True):
                        run.save(run.finite(gather(state, run.state, self.trainer.mesh)))
                    self._leave_if_asked()
        self.trainer.profile.end_epoch(states)
        return states

    def _show(self, epoch: int, step: int, rate: float) -> None:
        loss = float(np.mean([run.standing.mean_loss for run in self.runs]))
        rate *= len(self.runs)
        self.trainer.display.step(epoch, step, self.batches.per_epoch, loss, rate)

    def _count(self, outcome: list[jax.Array], step: int) -> None:
        losses, asked = outcome
        self.asked = int(asked)
        for run, value in zip(self.runs, np.asarray(losses).tolist(), strict=True):
            if not math.isfinite(value):
                raise run.diverged(f"the loss of step {step}")
            run.standing.epoch_loss += value
            run.standing.epoch_steps += 1
            run.standing.steps = step

    def _log_training(self, step: int, examples: int, seconds: float, waited: float) -> None:
        for run, log in zip(self.runs, self.logs, strict=True):
            run.standing.seconds += seconds
            run.standing.waited += waited
            run.standing.examples += examples
            log.write(
                {
                    "kind": "train",
                    "step": step,
                    "epoch": step / self.batches.per_epoch,
                    "loss": run.standing.mean_loss,
                    "examples_per_second": examples / seconds,
                    "seconds": seconds,
                }
            )

    def _end_of_epoch(
        self, run: SeedRun, log: MetricLog, state: TrainState, epoch: int, *, reached: bool
    ) -> None:
        """Validate where it is due, and save."""
        standing, config = run.standing, self.trainer.config
        whole = run.finite(gather(state, run.state, self.trainer.mesh))
        if epoch % config.eval_every == 0 or epoch == config.epochs or not reached:
            self._validate(run, log, state, epoch)
        if reached:
            standing.epoch_loss, standing.epoch_steps = 0.0, 0
        run.save(whole)

    def _validate(self, run: SeedRun, log: MetricLog, state: TrainState, epoch: int) -> None:
        began, standing = time.perf_counter(), run.standing
        metrics = self.trainer.validate(state)
        ndcg, loss = metrics["ndcg@10"], standing.mean_loss
        best = standing.add_validation(ndcg, standing.steps, epoch)
        log.write(
            {
                "kind": "valid", "step": standing.steps, "epoch": epoch, "loss": loss,
                **{name: metrics[name] for name in metric_names()},
                "seconds": time.perf_counter() - began,
            }
        )  # fmt: skip
        seed = f"seed {run.config.seed}  " if self.trainer.config.seeds > 1 else ""
        self.trainer.display.say(
            f"{seed}epoch {epoch}  loss {loss:.4f}  valid HR@10 {metrics['hr@10']:.4f}  "
            f"NDCG@10 {ndcg:.4f}{'  best so far' if best else ''}"
        )

    def _leave_if_asked(self) -> None:
        if self.asked:
            line = f"stopped and saved; go on with: {self.trainer.resume_line}"
            raise Interrupted(line, self.asked)
