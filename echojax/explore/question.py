"""What the page is asked: the parameters of its address, checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from echojax.errors import UserError
from echojax.serving.item_ids import typed_ids

MOST = 100  # recommendations
CHARACTERS = 20_000  # of a value
_ITEMS = 2_000


@dataclass(frozen=True)
class Question:
    """One question; empty where nothing was asked."""

    user: str = ""  # a user of the data set, or ""
    history: tuple[str, ...] = ()  # item ids, oldest first, where no user was picked
    k: int = 10  # how many recommendations
    item: str = ""  # whose score is to be explained; "" for the best one

    @property
    def is_empty(self) -> bool:
        """Whether nothing was asked."""
        return not self.user and not self.history

    def about(self, item: str) -> str:
        """Return the address of the same question with this item explained."""
        history = " ".join(self.history)
        if tuple(typed_ids(history)) != self.history:  # ids with blanks or commas
            history = json.dumps(self.history)
        asked = {"user": self.user, "history": history, "k": self.k, "item": item}
        return "/?" + urlencode({name: value for name, value in asked.items() if value})


def read_question(values: Mapping[str, str]) -> Question:
    """Return the question of an address."""
    for name in ("user", "history", "k", "item"):
        if len(values.get(name, "")) > CHARACTERS:
            raise UserError(f"{name} is longer than {CHARACTERS:,} characters; shorten it")
    history = tuple(typed_ids(values.get("history", "")))
    if len(history) > _ITEMS:
        raise UserError(f"a history of {len(history):,} items; give the newest {_ITEMS:,}")
    k = values.get("k", "").strip() or "10"
    if not (k.isascii() and k.isdigit() and len(k) < 4 and 1 <= int(k) <= MOST):
        raise UserError(f"k must be a whole number from 1 to {MOST}, not {k[:20]!r}")
    user = values.get("user", "").strip()
    if not user and not history and ("user" in values or "history" in values):
        raise UserError("nothing was asked; type a user, or the ids of some items")
    return Question(user, () if user else history, int(k), values.get("item", "").strip())
