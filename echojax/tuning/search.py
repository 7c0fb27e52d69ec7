"""A search: trials in generations, each trained together with successive halving."""

import dataclasses
import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from echojax.config import Config, flag
from echojax.data import Dataset, Split
from echojax.errors import UserError
from echojax.flags import SearchFlags
from echojax.given import given_number
from echojax.lock import BusyError
from echojax.report.tables import duration
from echojax.training.builders import read_data, resolved
from echojax.training.members import Outcome, most_epochs, train_members
from echojax.training.run_folder import default_run_dir, lock
from echojax.tuning.page import Search, write
from echojax.tuning.space import Space, as_written, set_flags
from echojax.tuning.study import Study, Trial, alone, best_of, open_study

log = logging.getLogger(__name__)

_STOPPED = "stopped and saved; the same command goes on"
_ELSEWHERE = {
    "run_dir": "use --out",
    "resume": "the same command goes on anyway",
    "seeds": "all trials have one --seed",
    "coordinator": "for several processes start the same command several times",
    "num_processes": "start the same command several times",
    "profile": "give it to train",
}


def default_folder(config: Config) -> Path:
    """Return runs/tune-DATASET-MODEL[-VARIANT]-seedN."""
    run = Path(default_run_dir(config))
    return run.with_name(f"tune-{run.name}")


def search(
    config: Config,
    space: Space,
    folder: Path,
    console: Console,
    *,
    trials: int,
    generation: int = SearchFlags.generation,
    dataset: Dataset | None = None,
    command: str = "",
) -> Search:
    """Search a space by the validation NDCG@10; write the study's page and the best recipe.

    The seed of ``config``, which is not resolved, is that of all trials and of the search. A study
    that is in the folder is continued. ``trials`` is their total number, ``generation`` how many
    are proposed, trained and halved together. A ``dataset`` in memory replaces the one that
    ``config`` names.
    """
    for name, value in (("--trials", trials), ("--generation", generation)):
        given_number(name, value)
    for name, instead in _ELSEWHERE.items():
        if getattr(config, name) != getattr(Config, name):
            raise UserError(f"{flag(name)} has no place in a search; {instead}")
    whole = resolved(config, in_memory=dataset is not None)
    dataset, split = read_data(whole, dataset=dataset)
    facts = dataset.fingerprint
    with open_study(folder, whole, space, generation=generation, facts=facts) as study:
        found = Search(folder, config, space, [], trials, dataset.name, command)
        this = _Searching(study, found, dataset, split, console)
        this.write_page()
        while (busy := this.train_a_generation()) is None:
            this.write_page()
        if busy:
            log.info("%d trials are being trained by another process", busy)
        found = this.write_page()
        if found.best is None and not busy:
            last = found.trials[-1]
            raise UserError(f"all {len(found.trials)} trials failed, the last: {last.ended}")
        return found


class Halving:
    """Stops the worse half of some trials repeatedly, until one is left, which is not stopped.

    Of four trials, two go on after a quarter of the epochs, and one after half of them; with more
    trials the first halving comes earlier. They are compared by their best score so far.
    """

    def __init__(self, numbers: Sequence[int], epochs: int):
        self.stopped: set[int] = set()  # places in ``numbers``
        self._numbers, self._epochs = numbers, epochs
        self._best: dict[int, float] = {}
        times = max(len(numbers), 1).bit_length() - 1
        self._rungs = [
            (epochs >> (times + 1 - done), -(-len(numbers) >> done)) for done in range(1, times + 1)
        ]

    def __call__(self, epoch: int, scores: dict[int, float]) -> list[int]:
        """Return the places of the trials that stop after an epoch, given the scores of all."""
        for place, score in scores.items():
            self._best[place] = max(score, self._best.get(place, score))
        keep = len(scores)
        while self._rungs and self._rungs[0][0] <= epoch < self._epochs:
            keep = min(keep, self._rungs.pop(0)[1])
        ranked = sorted(scores, key=lambda place: (-self._best[place], place))
        if stopped := ranked[keep:]:
            self.stopped.update(stopped)
            left = ", ".join(str(self._numbers[place]) for place in sorted(ranked[:keep]))
            best = self._best[ranked[0]]
            log.info(f"epoch {epoch}: best {best:.4f}; of these trials {left} go on")
        return stopped


@dataclass
class _Searching:
    """A search that is running."""

    study: Study
    found: Search  # so far
    dataset: Dataset
    split: Split
    console: Console
    seconds: list[float] = field(default_factory=list)  # of each generation trained here

    def write_page(self) -> Search:
        """Write page and recipe of what has been found so far, and return it."""
        with alone(self.study.folder):  # no process overwrites what another has read later
            wanted = self.found.wanted
            trials = [trial for trial in self.study.trials() if trial.number < wanted]
            self.found = dataclasses.replace(self.found, trials=trials)
            write(self.found)
        return self.found

    def train_a_generation(self) -> int | None:
        """Train the first generation that is not finished and not trained by another process.

        If there is none, return how many trials other processes are training.
        """
        busy = 0
        for generation, numbers in enumerate(self._generations()):
            if not self._unfinished(numbers):
                continue
            folder = self.study.folder / f"generation-{generation}"
            folder.mkdir(exist_ok=True)
            with ExitStack() as held:
                try:
                    held.enter_context(lock(folder))
                except BusyError:
                    busy += len(numbers)
                    continue
                if self._unfinished(numbers):  # still, now that it is ours
                    began = time.monotonic()
                    self._train(generation, numbers)
                    self.seconds.append(time.monotonic() - began)
                    for path in folder.glob("trial-*/checkpoints"):  # they are not needed any more
                        shutil.rmtree(path)
                    return None
        return busy

    def _generations(self) -> list[range]:
        size = self.study.generation
        firsts = range(0, self.found.wanted, size)
        return [range(first, min(first + size, self.found.wanted)) for first in firsts]

    def _unfinished(self, numbers: range) -> list[int]:
        finished = {trial.number for trial in self.study.trials() if trial.finished}
        return [number for number in numbers if number not in finished]

    def _train(self, generation: int, numbers: range) -> None:
        """Train a generation with successive halving, and record the result of each trial.

        If an earlier start was killed, trials that it has recorded still have checkpoints. They are
        included again, so that the others are compared with them, and end as they did.
        """
        self.study.propose(generation, numbers)
        trials = {trial.number: trial for trial in self.study.trials()}
        folder = self.study.folder / f"generation-{generation}"
        these = [
            number
            for number in numbers
            if not trials[number].finished or (folder / f"trial-{number}" / "checkpoints").exists()
        ]
        self._log_progress(these, list(trials.values()))
        configs = {}
        for number in these:
            try:
                config = set_flags(self.found.config, trials[number].values)
                configs[number] = resolved(config, in_memory=True)
            except UserError as error:  # values that do not go together
                self._record(trials[number], Outcome({}, 0, str(error), True, 0, 0.0))
        if not configs:
            return
        epochs = max(most_epochs(config, self.split) for config in configs.values())
        halving = Halving(list(configs), epochs)
        outcomes = train_members(
            list(configs.values()),
            self.dataset,
            self.split,
            [folder / f"trial-{number}" for number in configs],
            self.console,
            decide=halving,
            stopped_line=_STOPPED,
        )
        for place, (number, outcome) in enumerate(zip(configs, outcomes, strict=True)):
            self._record(trials[number], outcome, stopped=place in halving.stopped)

    def _record(self, trial: Trial, outcome: Outcome, *, stopped: bool = False) -> None:
        if not self.study.record(trial.number, outcome, stopped=stopped):
            return
        score = "failed" if outcome.failed else f"{max(outcome.history.values()):.4f}"
        values = ", ".join(f"{name} {as_written(value)}" for name, value in trial.values.items())
        log.info(f"trial {trial.number}: {score}, {outcome.ended}: {values}")

    def _log_progress(self, numbers: Sequence[int], trials: Sequence[Trial]) -> None:
        best, left = best_of(trials), ""
        if self.seconds:
            unfinished = sum(bool(self._unfinished(one)) for one in self._generations())
            mean = sum(self.seconds) / len(self.seconds)
            left = f" (about {duration(unfinished * mean)} left)"
        so_far = f"; best so far {best.score:.4f}, trial {best.number}" if best else ""
        which = ", ".join(map(str, numbers))
        log.info(f"trials {which} of {self.found.wanted}{left}{so_far}")
