"""The training loop: steps, validations, checkpoints, early stopping."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass

import jax

from echojax.config import Config
from echojax.data import Batches
from echojax.errors import UserError
from echojax.evaluation.metrics import metric_names
from echojax.training.checkpoints import Checkpoints
from echojax.training.interrupts import Interrupted, Interrupts
from echojax.training.metric_log import MetricLog
from echojax.training.objectives import Batch
from echojax.training.progress import Display, Standing
from echojax.training.state import TrainState
from echojax.training.step import StepFunction


@dataclass
class Trainer:
    """What a run trains with; ``train`` is the loop.

    Args:
        step: the jitted step; donates the state.
        batches: all epochs' batches by number.
        validate: returns the validation metrics of a state's parameters.
        resume_line: the command that goes on with this run.
    """

    config: Config
    step: StepFunction
    batches: Batches
    validate: Callable[[TrainState], dict[str, float]]
    checkpoints: Checkpoints
    log: MetricLog
    display: Display
    interrupts: Interrupts
    resume_line: str

    def train(self, state: TrainState, standing: Standing) -> tuple[TrainState, str]:
        """Train from ``state`` until a reason to stop; return the last state and the reason.

        Raises:
            UserError: the loss is not finite.
            Interrupted: a signal came; everything is saved.
        """
        per_epoch = self.batches.per_epoch
        done = int(state.step)
        with closing(self.batches.iterate(done, workers=self.config.data_workers)) as feed:
            while (reason := standing.stop_reason(self.config, done, per_epoch)) is None:
                epoch = done // per_epoch + 1
                stop = epoch * per_epoch
                if self.config.max_steps is not None:
                    stop = min(stop, self.config.max_steps)
                with self.display.epoch(epoch, per_epoch, done % per_epoch):
                    state = self._steps(state, standing, feed, done, stop)
                done = stop
                self._end_of_epoch(state, standing, epoch, reached=done % per_epoch == 0)
                self._leave_if_asked()
        return state, reason

    def _steps(
        self, state: TrainState, standing: Standing, feed: Iterator[Batch], done: int, stop: int
    ) -> TrainState:
        """Run the steps from ``done`` up to ``stop``, all of one epoch."""
        per_epoch = self.batches.per_epoch
        epoch, first = done // per_epoch + 1, done
        last_loss, began = None, time.perf_counter()
        examples = 0
        for step in range(done, stop):
            wanted = time.perf_counter()
            batch = next(feed)
            standing.waited += time.perf_counter() - wanted
            examples += int((batch["weights"] > 0).sum())
            state, loss = self.step(state, batch)
            if last_loss is not None:  # read one step late, so that the device is never idle
                self._count(standing, last_loss, step)
            last_loss = loss
            rate = examples / (time.perf_counter() - began) if step > first else math.nan
            self.display.step(epoch, step % per_epoch + 1, per_epoch, _mean(standing), rate)
            asked = self.interrupts.signum is not None
            save = step + 1 < stop and (asked or (step + 1) % self.config.checkpoint_every == 0)
            if save or step + 1 == stop:
                self._count(standing, last_loss, step + 1)
                last_loss, now = None, time.perf_counter()
                standing.seconds += now - began
                standing.examples += examples
                self._log_training(standing, step + 1, examples / (now - began), now - began)
                began, examples = now, 0
                if save:
                    self.checkpoints.save(state, asdict(standing))
                    self._leave_if_asked()
        return state

    def _count(self, standing: Standing, loss: jax.Array, step: int) -> None:
        value = float(loss)
        if not math.isfinite(value):
            raise UserError(
                f"the loss of step {step} is {value}; the last good checkpoint is kept. Try a "
                "smaller --learning-rate, another --seed, or look for odd values in the data"
            )
        standing.epoch_loss += value
        standing.epoch_steps += 1
        standing.steps = step

    def _log_training(self, standing: Standing, step: int, rate: float, seconds: float) -> None:
        self.log.write(
            {
                "kind": "train",
                "step": step,
                "epoch": step / self.batches.per_epoch,
                "loss": _mean(standing),
                "examples_per_second": rate,
                "seconds": seconds,
            }
        )

    def _end_of_epoch(
        self, state: TrainState, standing: Standing, epoch: int, *, reached: bool
    ) -> None:
        """Validate where it is due, and save."""
        ndcg, loss, step = None, _mean(standing), int(state.step)
        if epoch % self.config.eval_every == 0 or epoch == self.config.epochs or not reached:
            began = time.perf_counter()
            metrics = self.validate(state)
            ndcg = metrics["ndcg@10"]
            best = standing.add_validation(ndcg, step, epoch)
            seconds = time.perf_counter() - began
            self.log.write(
                {
                    "kind": "valid", "step": step, "epoch": epoch, "loss": loss,
                    **{name: metrics[name] for name in metric_names()}, "seconds": seconds,
                }
            )  # fmt: skip
            self.display.say(
                f"epoch {epoch}  loss {loss:.4f}  valid HR@10 {metrics['hr@10']:.4f}  "
                f"NDCG@10 {ndcg:.4f}{'  best so far' if best else ''}"
            )
        if reached:
            standing.epoch_loss, standing.epoch_steps = 0.0, 0
        self.checkpoints.save(state, asdict(standing), ndcg)

    def _leave_if_asked(self) -> None:
        if self.interrupts.signum is not None:
            line = f"stopped and saved; go on with: {self.resume_line}"
            raise Interrupted(line, self.interrupts.signum)


def _mean(standing: Standing) -> float:
    return standing.epoch_loss / standing.epoch_steps if standing.epoch_steps else math.nan
