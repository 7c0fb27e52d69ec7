"""A trained run for the page: its users, its recommendations, and the attribution of scores."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from echojax.analysis import analyse
from echojax.config import Config
from echojax.data import Dataset, Split
from echojax.errors import UserError
from echojax.files import read_json
from echojax.models import SequenceModel
from echojax.models.heuristic import training_counts
from echojax.serving import Recommender
from echojax.serving.inputs import padded
from echojax.serving.trained import check_places, read_trained, run_titles
from echojax.training.builders import read_run_data
from echojax.training.run_folder import keeps_data

log = logging.getLogger(__name__)


class Event(NamedTuple):
    """The contribution of a past event to a score."""

    item: str  # the id of its item
    ago: int  # 1 for the last event
    # Shares of the attribution to all events: the whole "share" and, for bidirectional models, the
    # shares through the "forward" and the "backward" Mambas.
    shares: dict[str, float]


@dataclass(frozen=True)
class ExploredRun:
    """A run that the page explores."""

    folder: Path  # the run folder
    config: Config  # the configuration of the run
    data_sha256: str  # of the prepared data
    model: SequenceModel  # with the parameters of the best validation
    recommender: Recommender  # of the same model
    titles: dict[str, str]  # by item id; empty if the data has none
    dataset: Dataset | None  # the data of the run; ``None`` if it is not found
    split: Split | None  # of the data, as for ``dataset``

    @property
    def name(self) -> str:
        """The name of the run on the page."""
        variant = self.config.variant if self.config.model == "echomamba4rec" else ""
        parts = [self.config.model, variant, f"seed {self.config.seed}"]
        return " ".join(part for part in parts if part) + f" ({self.folder.resolve().name})"

    @cached_property
    def _user_number(self) -> dict[str, int]:
        users = [] if self.dataset is None else self.dataset.user_ids.tolist()
        return {user: number for number, user in enumerate(users)}

    @cached_property
    def _held_out(self) -> frozenset[int]:
        parts = [] if self.split is None else [self.split.valid, self.split.test]
        return frozenset(user for part in parts for user in part.user_M.tolist())

    def last_item_of(self, user: str) -> str:
        """Return what the last item of a user is to this run; some splits train on it."""
        if self.split is None:
            return "last item"
        held_out = self._user_number.get(user) in self._held_out
        return "held-out last item" if held_out else "last item (not held out)"

    def users(self, count: int) -> list[str]:
        """Return the ids of ``count`` users, spread evenly over the data."""
        users = list(self._user_number)
        return users[:: max(1, len(users) // count)][:count]

    def history_of(self, user: str) -> tuple[list[tuple[str, float]], str]:
        """Return the items of a user but the last with their times, oldest first; and the last."""
        if self.dataset is None:
            raise UserError(f"the data of {self.name} is not here; type a history instead")
        number = self._user_number.get(user)
        if number is None:
            raise UserError(f"user {user!r} is not in the data of this run; pick another")
        start, end = self.dataset.offsets[number : number + 2]
        items = self.dataset.item_ids[self.dataset.items_T[start:end]].tolist()
        times = self.dataset.times_T[start:end].tolist()
        *history, (last, _) = zip(items, times, strict=True)
        return history, last

    def events(self, history: Sequence[object], item: str) -> list[Event]:
        """Return the events that the model reads, newest first, with their shares in a score.

        The score is that of ``item``, which must be known to the run.
        """
        ids = self.recommender.item_ids
        numbers, gaps_L, _ = self.recommender.events(history)
        numbers = numbers[-self.model.max_len :]
        batch = {
            "item_ids": padded([numbers], 1, self.model.max_len),
            "lengths": np.array([numbers.size], np.int32),
            "targets": np.array([ids.number(item)], np.int32),
        }
        if gaps_L is not None:
            batch["gaps"] = padded([gaps_L], 1, self.model.max_len, np.float32)
        found = analyse(self.model, batch).attribution
        total = float(found["events"][0, : numbers.size].sum()) or 1.0
        levels = {"share": "events", "forward": "events/forward", "backward": "events/backward"}
        shares = {name: found[key][0] / total for name, key in levels.items() if key in found}
        return [
            Event(
                item=str(ids.item_ids_V[numbers[place]]),
                ago=numbers.size - place,
                shares={name: float(share_L[place]) for name, share_L in shares.items()},
            )
            for place in reversed(range(numbers.size))
        ]


def read_explored(
    folder: Path, *, data_dir: str | None = None, data_path: str | None = None
) -> ExploredRun:
    """Read a run, and its data if it is found."""
    check_places(data_dir, data_path)
    trained = read_trained(folder)
    config, places = trained.config, {"data_dir": data_dir, "data_path": data_path}
    dataset, split, counts = None, None, None
    try:
        dataset, split = read_run_data(folder, config, **places)
        counts = training_counts(split.train, dataset.num_items)
    except UserError as error:
        log.info("no users to pick from, no answer by popularity: %s", error)
    return ExploredRun(
        folder=folder,
        config=config,
        data_sha256=str(read_json(folder / "items.json").get("sha256")),
        model=trained.model,
        recommender=Recommender(
            trained.model,
            trained.item_ids,
            step=trained.step,
            gap_unit=trained.gap_unit,
            popularity=None if counts is None else lambda: counts,
        ),
        titles=run_titles(trained.titles, config, **places),
        dataset=dataset,
        split=split,
    )


def check_same_items(runs: Sequence[ExploredRun]) -> None:
    """Raise ``UserError`` if the same id could be different items in different runs."""
    first = runs[0]
    for other in runs[1:]:
        places = {(run.config.dataset, run.config.data_path) for run in (first, other)}
        # Data from memory are in no place where the runs could both have read them.
        elsewhere = len(places) > 1 or keeps_data(first.folder) or keeps_data(other.folder)
        if first.data_sha256 != other.data_sha256 and elsewhere:
            raise UserError(
                f"{first.folder} and {other.folder} were trained on different data, where an id "
                "can be another item; explore them one at a time"
            )
