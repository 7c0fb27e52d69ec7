"""A study: the trials of one search, in a folder that several processes can work on.

``study.json`` says what is searched, ``study.db`` (SQLite, by Optuna) has the trials, and
``generation-N/trial-M`` are their run folders. Trials are proposed in generations, each a function
of the seed, its number, and the generations that are finished.
"""

import logging
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from echojax.config import LIMITS, RESUMABLE, Config, as_flags, flag
from echojax.errors import UserError, one_line
from echojax.files import read_record, write_json
from echojax.lock import BusyError
from echojax.training.members import Outcome
from echojax.training.run_folder import lock
from echojax.tuning.space import Space, Values, as_words, distributions

# Generations are drawn at random until this many trials are known.
_RANDOM_TRIALS = 8
_NAME = "tune"
UNFINISHED, COMPLETE, STOPPED_EARLY, FAILED = "not finished", "complete", "stopped", "failed"
_STATES = {
    TrialState.RUNNING: UNFINISHED,
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: STOPPED_EARLY,
    TrialState.FAIL: FAILED,
}


@dataclass(frozen=True)
class Trial:
    """A trial."""

    number: int  # from 0, in the order in which they are proposed
    values: Values  # of the flags that are searched
    state: str  # one of ``_STATES``
    score: float | None = None  # best validation NDCG@10; ``None`` if it has none, or diverged
    epochs: int = 0  # for which it was trained
    best_epoch: int = 0  # the epoch of the score
    seconds: float = 0.0  # of its training
    ended: str = ""  # why training ended

    @property
    def finished(self) -> bool:
        """Whether its training is over."""
        return self.state != UNFINISHED


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial with the best score, the first of several; ``None`` if none has one."""
    scored = [trial for trial in trials if trial.finished and trial.score is not None]
    return max(scored, key=lambda trial: (trial.score, -trial.number), default=None)


class _File(msgspec.Struct):
    """``study.json``."""

    data: str  # its SHA-256
    generation: int
    flags: dict[str, Any]
    space: dict[str, Any]


class Study:
    """The trials of an open study; ``generation`` of them are proposed and trained together."""

    def __init__(
        self, folder: Path, seed: int, space: Space, generation: int, storage: RDBStorage
    ) -> None:
        self.folder, self.space, self.generation = folder, space, generation
        self._seed, self._storage = seed, storage
        self._distributions = distributions(space)
        self._study = optuna.create_study(
            storage=storage, study_name=_NAME, direction="maximize", load_if_exists=True
        )

    def trials(self) -> list[Trial]:
        """Return all trials proposed so far, by number."""
        try:
            return [_trial(number, frozen) for number, frozen in self._frozen().items()]
        except msgspec.ValidationError as error:
            raise _unusable(self.folder / "study.db", error) from None

    def propose(self, generation: int, numbers: range) -> None:
        """Propose those trials of a generation that do not exist yet."""
        known = self._frozen()
        if all(number in known for number in numbers):
            return
        others = [
            frozen for number, frozen in known.items() if number // self.generation != generation
        ]
        values = self._ask(generation, others, len(numbers))
        for number, proposed in zip(numbers, values, strict=True):
            if number not in known:
                self._study.add_trial(
                    create_trial(
                        state=TrialState.RUNNING,
                        params=proposed,
                        distributions=self._distributions,
                        user_attrs={"number": number},
                    )
                )

    def record(self, number: int, outcome: Outcome, *, stopped: bool) -> bool:
        """Record the outcome of a trial; return ``False`` if it has been recorded before.

        ``stopped`` says that it was stopped early because others of its generation were better.
        """
        frozen = self._frozen()[number]
        if frozen.state.is_finished():
            return False
        study_id = self._storage.get_study_id_from_name(_NAME)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, frozen.number)
        epochs = max(outcome.history, default=0)
        facts = {
            "epochs": epochs,
            "best_epoch": outcome.best_epoch,
            "seconds": outcome.seconds,
            "ended": outcome.ended,
        }
        self._storage.set_trial_user_attr(trial_id, "outcome", facts)
        if outcome.failed or not outcome.history:
            self._study.tell(frozen.number, state=TrialState.FAIL)
            return True
        score = max(outcome.history.values())
        if stopped:
            # The sampler ranks them by how far they came, then by score.
            self._storage.set_trial_intermediate_value(trial_id, epochs, score)
            self._study.tell(frozen.number, state=TrialState.PRUNED)
        else:
            self._study.tell(frozen.number, score)
        return True

    def _frozen(self) -> dict[int, FrozenTrial]:
        """Return Optuna's trials by our number, without any that this class did not add."""
        found = {
            frozen.user_attrs["number"]: frozen
            for frozen in self._study.get_trials(deepcopy=False)
            if frozen.state in _STATES
            and type(frozen.user_attrs.get("number")) is int
            and frozen.params.keys() == self.space.keys()
        }
        return dict(sorted(found.items()))

    def _ask(self, generation: int, others: Iterable[FrozenTrial], count: int) -> list[Values]:
        """Return values for a generation's trials, proposed from the results of the others."""
        seed = np.random.SeedSequence([self._seed, generation]).generate_state(1)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=int(seed),
                n_startup_trials=_RANDOM_TRIALS,
                multivariate=True,
                constant_liar=True,  # trials of one generation keep apart
            )
            memory = optuna.create_study(sampler=sampler, direction="maximize")
            for frozen in others:
                if frozen.state == TrialState.FAIL:  # which the sampler would know nothing of
                    frozen = create_trial(
                        state=TrialState.PRUNED,
                        params=frozen.params,
                        distributions=frozen.distributions,
                    )
                memory.add_trial(frozen)
            return [memory.ask(self._distributions).params for _ in range(count)]


@contextmanager
def open_study(
    folder: Path, config: Config, space: Space, *, generation: int, facts: Mapping[str, Any]
) -> Iterator[Study]:
    """Give the study in a folder, which is created if there is none.

    ``config`` is resolved, ``facts`` is the data's fingerprint.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder")
    path, database = folder / "study.json", folder / "study.db"
    files = [one.name for one in folder.iterdir()] if folder.exists() else []
    if not path.exists() and not all(name.startswith(".") for name in files):
        raise UserError(f"--out {folder} has files but no study.json; name another folder")
    # Limits of training are compared too, as a trial's score depends on them.
    kept = as_flags(config).items()
    given = {n: v for n, v in kept if n not in {*space, *RESUMABLE.difference(LIMITS)}}
    if vectors := facts.get("item_vectors"):
        given["item_vectors"] = vectors["sha256"][:12]
    mine = _File(facts["sha256"], generation, given, msgspec.to_builtins(space))
    folder.mkdir(parents=True, exist_ok=True)
    url = URL.create("sqlite", database=str(database)).render_as_string()
    with ExitStack() as held:
        held.enter_context(_quiet_optuna())
        held.enter_context(_one_line_errors(database))
        with alone(folder):
            if path.exists():
                _check_same(folder, read_record(path, _File), mine, space)
            else:
                write_json(path, msgspec.to_builtins(mine))
            try:
                # No pool: one that could not be set up would leave its connections open.
                options = {"connect_args": {"timeout": 60}, "poolclass": NullPool}
                storage = RDBStorage(url, engine_kwargs=options)
            except RuntimeError as error:  # written by another version of Optuna
                raise UserError(f"{database} cannot be used: {one_line(error)}") from None
            held.callback(storage.remove_session)
            study = Study(folder, config.seed, space, generation, storage)
        yield study


def _check_same(folder: Path, stored: _File, mine: _File, space: Space) -> None:
    """Raise ``UserError`` if the stored study is not the same as the given one."""
    other = f"or name another --out than {folder}"
    if stored.data != mine.data:
        raise UserError(
            f"{folder} is a study of other data (sha256 {stored.data[:12]}, here "
            f"{mine.data[:12]}); restore the data, {other}"
        )
    for name in {**stored.flags, **mine.flags}:
        if (before := stored.flags.get(name)) != (now := mine.flags.get(name)):
            if name in stored.space.keys() ^ mine.space.keys():
                continue
            raise UserError(
                f"{folder} is a study with {flag(name)} {before}, not {now}; give the same, {other}"
            )
    if stored.space != mine.space:
        words = "; ".join(f"{name}: {as_words(knob)}" for name, knob in space.items())
        raise UserError(f"{folder} is a study of another space than {words}; give it, {other}")
    if stored.generation != mine.generation:
        raise UserError(
            f"{folder} is a study with --generation {stored.generation}, not {mine.generation}; "
            f"give the same, {other}"
        )


def _trial(number: int, frozen: FrozenTrial) -> Trial:
    outcome = msgspec.convert(frozen.user_attrs.get("outcome", {}), dict[str, Any])
    known = {
        "number": number,
        "values": frozen.params,
        "state": _STATES[frozen.state],
        "score": frozen.value if frozen.state != TrialState.FAIL else None,
    }
    return msgspec.convert(outcome | known, Trial)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a study's folder for writing, after waiting for any other process that has locked it."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(lock(folder))
                break
            except BusyError:
                time.sleep(0.05)
        yield


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Let Optuna log only warnings and errors inside."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _one_line_errors(database: Path) -> Iterator[None]:
    """Turn errors of SQLite into a ``UserError``."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise _unusable(database, getattr(cause, "orig", cause) or error) from None


def _unusable(database: Path, why: BaseException) -> UserError:
    return UserError(
        f"{database} cannot be used ({one_line(why)}); fix that, restore it from a copy, or name "
        "another --out"
    )
