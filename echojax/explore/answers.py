"""The questions of the page's users, checked, and the runs' answers as the template shows them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from echojax.errors import UserError
from echojax.explore.runs import ExploredRun
from echojax.serving.item_ids import typed_ids, with_times
from echojax.serving.recommender import Recommendation

MOST = 100  # the largest number of recommendations
CHARACTERS = 20_000  # the longest value in a question
_ITEMS = 2_000  # the longest history
_AROUND_IDS = " \t\r\n"  # no part of an id, unlike no-break spaces
_EVENTS = 50  # the largest number of events with rows of their own
_LEAST = 0.001  # the smallest share of an event with a row of its own


@dataclass(frozen=True)
class Question:
    """One question; it is empty when the page is opened without one."""

    user: str = ""  # the id of a user in the data set, or ""
    history: tuple[str, ...] = ()  # item ids, oldest first, if no user is given
    k: int = 10  # how many recommendations
    item: str = ""  # the item whose score is explained; "" for the best one

    @property
    def is_empty(self) -> bool:
        """Whether the question names neither a user nor a history."""
        return not self.user and not self.history

    def about(self, item: str) -> str:
        """Return the address of the same question, with the score of this item explained."""
        history = " ".join(self.history)
        if tuple(typed_ids(history)) != self.history:  # some ids hold blanks or commas
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
        raise UserError(f"the history has {len(history):,} items; give the newest {_ITEMS:,}")
    k = values.get("k", "").strip() or "10"
    if not (k.isascii() and k.isdigit() and len(k) < 4 and 1 <= int(k) <= MOST):
        raise UserError(f"k must be a whole number from 1 to {MOST}, not {k[:20]!r}")
    user = values.get("user", "").strip(_AROUND_IDS)
    item = values.get("item", "").strip(_AROUND_IDS)
    if not user and not history and ("user" in values or "history" in values):
        raise UserError("the question is empty; type a user, or the ids of some items")
    return Question(user, () if user else history, int(k), item)


def answers(question: Question, runs: Sequence[ExploredRun]) -> dict[str, Any]:
    """Return the answers of the runs, side by side; none if the question is empty.

    All runs explain the score of the same item: the one that the question names, or else the best
    one of the first run.
    """
    if question.is_empty:
        return {"answers": [], "explained": ""}
    timed = any(run.recommender.gap_unit is not None for run in runs)
    events: Sequence[tuple[str, float | None]]
    events, following = [(item, None) for item in question.history], ""
    if question.user:
        events, following = runs[0].history_of(question.user)
    elif timed:
        events = with_times(question.history)
    items = [item for item, _ in events]
    histories = [items if run.recommender.gap_unit is None else events for run in runs]
    given = [
        run.recommender.recommend([history], question.k)[0]
        for run, history in zip(runs, histories, strict=True)
    ]
    best = next((a.item_ids[0] for a in given if a.by == "model" and a.item_ids), "")
    item = question.item or best
    columns = []
    for run, answer, history in zip(runs, given, histories, strict=True):
        notes = _notes(run, answer, len(history), question.k)
        if following:
            notes.append(_place_of(following, run.last_item_of(question.user), run, answer))
        if item and not run.recommender.item_ids.number(item):
            notes.append(f"This run does not know the item {item[:50]!r} and cannot explain it.")
        columns.append({"run": run, "notes": notes, **_explained(run, answer, history, item)})
    common = frozenset.intersection(*(frozenset(answer.item_ids) for answer in given))
    return {
        "question": question,
        "answers": columns,
        "explained": item,
        "following": following,
        "common": common if len(runs) > 1 else frozenset(),
    }


def _place_of(following: str, what: str, run: ExploredRun, answer: Recommendation) -> str:
    """Return a note that says where the user's last item is among the recommendations."""
    found = answer.item_ids
    title = run.titles.get(following, following)
    place = f"number {found.index(following) + 1}" if following in found else "not"
    return f"The user's {what}, {title}, is {place} among these recommendations."


def _explained(
    run: ExploredRun, answer: Recommendation, history: Sequence[object], item: str
) -> dict[str, Any]:
    """Return a run's answer and the events that moved the score of an item, for the template."""
    known, by_model = run.recommender.item_ids.number(item) > 0, answer.by == "model"
    events = run.events(history, item) if by_model and known else []
    shown = [event for event in events[:_EVENTS] if event.shares["share"] >= _LEAST]
    rest = max(0.0, 1 - sum(event.shares["share"] for event in shown))
    return {
        "rows": list(zip(answer.item_ids, answer.scores, strict=True)),
        "by_model": by_model,
        "shares": list(events[0].shares) if events else [],
        "events": shown,
        "most": max((event.shares["share"] for event in shown), default=1.0),
        "others": (len(events) - len(shown), rest),
    }


def _notes(run: ExploredRun, answer: Recommendation, total: int, k: int) -> list[str]:
    """Return notes about the answer to a history of ``total`` items."""
    notes, found = [], len(answer.item_ids)
    if found < k:
        notes.append(
            f"{found or 'No'} {'item is' if found < 2 else 'items are'} left to recommend."
        )
    if answer.unknown:
        notes.append(f"Items that this run does not know are skipped: {answer.unknown} of {total}.")
    if answer.by == "popularity":
        return [*notes, "This run knows no item of the history. These are the most popular items."]
    read = min(total - answer.unknown, run.model.max_len)
    newest = "the newest " if read < total - answer.unknown else ""
    return [
        *notes,
        f"The model reads {newest}{read} of the history's {total} items. The score is the model's "
        "logit; higher is better. Items of the history are left out.",
    ]
