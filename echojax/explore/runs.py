"""A trained run as the page asks it: users, recommendations, and what moved a score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from echojax.config import Config
from echojax.data import Dataset
from echojax.errors import UserError
from echojax.insight.look import look
from echojax.models import SequenceModel
from echojax.models.heuristic import training_counts
from echojax.serving import Recommender
from echojax.serving.batches import padded
from echojax.serving.popularity import read_run_data
from echojax.serving.titles import check_places, run_titles
from echojax.serving.trained import read_trained


class Event(NamedTuple):
    """A past event's part in a score.

    Attributes:
        item: its id.
        ago: 1 for the last event.
        share: of the influence of all events.
        through: the shares through the forward and the backward Mambas, by direction; empty for
            a model without two directions.
    """

    item: str
    ago: int
    share: float
    through: dict[str, float]


@dataclass(frozen=True)
class ExploredRun:
    """A run that is asked.

    Attributes:
        folder: the run folder.
        config: what it was trained with.
        model: with the parameters of the best validation.
        recommender: answers by them.
        titles: by item id; empty where the data has none.
        dataset: what it was trained on; ``None`` where that is not found.
    """

    folder: Path
    config: Config
    model: SequenceModel
    recommender: Recommender
    titles: dict[str, str]
    dataset: Dataset | None

    @property
    def name(self) -> str:
        """What the run is called on the page."""
        variant = self.config.variant if self.config.model == "echomamba4rec" else ""
        parts = [self.config.model, variant, f"seed {self.config.seed}"]
        return " ".join(part for part in parts if part) + f" ({self.folder.resolve().name})"

    @cached_property
    def _user_number(self) -> dict[str, int]:
        users = [] if self.dataset is None else self.dataset.user_ids.tolist()
        return {user: number for number, user in enumerate(users)}

    def users(self, count: int) -> list[str]:
        """Return the ids of some users, spread evenly over the data."""
        users = list(self._user_number)
        return users[:: max(1, len(users) // count)][:count]

    def history_of(self, user: str) -> tuple[list[str], str]:
        """Return the items of a user but the last, oldest first; and the last, the test's target.

        Raises:
            UserError: there is no such user, or the data set is not there.
        """
        if self.dataset is None:
            raise UserError(f"the data of {self.folder} is not here; type a history instead")
        number = self._user_number.get(user)
        if number is None:
            raise UserError(f"user {user!r} is not in the data of this run; pick another")
        start, end = self.dataset.offsets[number : number + 2]
        items = self.dataset.item_ids[self.dataset.items_T[start:end]].tolist()
        return items[:-1], items[-1]

    def events(self, history: Sequence[str], item: str) -> list[Event]:
        """Return the events that the model reads, newest first, and how they moved a score.

        Raises:
            UserError: the item is not in the catalogue.
        """
        ids = self.recommender.item_ids
        numbers, _ = ids.numbers(history)
        numbers = numbers[-self.model.max_len :]
        if not (target := ids.number(item)):
            raise UserError(f"item {item!r} is not in the catalogue of {self.folder}; pick another")
        batch = {
            "item_ids": padded([numbers], 1, self.model.max_len),
            "lengths": np.array([numbers.size], np.int32),
            "targets": np.array([target], np.int32),
        }
        found = look(self.model, batch).influences
        total = float(found["events"][0, : numbers.size].sum()) or 1.0
        return [
            Event(
                item=str(ids.item_ids_V[numbers[place]]),
                ago=numbers.size - place,
                share=float(found["events"][0, place]) / total,
                through={
                    name: float(found[f"events/{name}"][0, place]) / total
                    for name in ("forward", "backward")
                    if f"events/{name}" in found
                },
            )
            for place in reversed(range(numbers.size))
        ]


def read_explored(
    folder: Path, *, data_dir: str | None, data_path: str | None, say: Callable[[str], None]
) -> ExploredRun:
    """Read a run, and its data where they are found.

    Raises:
        UserError: no run, no model in it, no whole checkpoint, titles that cannot be read, or data
            that is not where it is said to be.
    """
    check_places(data_dir, data_path)
    trained = read_trained(folder, say)
    config = trained.config
    try:
        dataset, split = read_run_data(
            folder, config, data_dir=data_dir, data_path=data_path, say=say
        )
        counts = training_counts(split.train, dataset.num_items)
    except UserError as error:
        say(f"no users to pick from, no answer by popularity: {error}")
        dataset, counts = None, None
    return ExploredRun(
        folder=folder,
        config=config,
        model=trained.model,
        recommender=Recommender(
            trained.model,
            trained.item_ids,
            popularity=None if counts is None else lambda: counts,
        ),
        titles=run_titles(trained.titles, config, data_dir=data_dir, data_path=data_path, say=say),
        dataset=dataset,
    )
