"""The runs' answers to a question, as the page's template shows them."""

from collections.abc import Sequence
from typing import Any

from echojax.explore.question import Question
from echojax.explore.runs import ExploredRun
from echojax.serving.recommender import Recommendation

_EVENTS = 50  # rows
_LEAST = 0.001  # share of an event that has a row of its own


def answers(question: Question, runs: Sequence[ExploredRun]) -> dict[str, Any]:
    """Return what the runs answer, side by side; nothing to an empty question.

    Runs explain the same item: the one that is picked, or the first run's best.
    """
    if question.is_empty:
        return {"answers": [], "explained": ""}
    timed = any(run.recommender.gap_unit is not None for run in runs)
    words, following = list(question.history), ""
    if question.user:
        words, following = runs[0].history_of(question.user, timed=timed)
    histories = [run.understood(words, timed=timed) for run in runs]
    given = [
        run.recommender.recommend([history], question.k)[0]
        for run, history in zip(runs, histories, strict=True)
    ]
    best = next((a.item_ids[0] for a in given if a.by == "model" and a.item_ids), "")
    item = question.item or best
    columns = []
    for run, answer, history in zip(runs, given, histories, strict=True):
        known = run.recommender.item_ids.number(item) > 0
        notes = _notes(run, answer, len(history), question.k)
        if following:
            found = answer.item_ids
            place = f"number {found.index(following) + 1} here" if following in found else ""
            notes.append(
                "The user's held-out last item, what came next in the data: "
                f"{run.titles.get(following, following)}, {place or 'not among these'}."
            )
        if item and not known:
            notes.append(f"Item {item[:50]!r} is unknown to this run: not explained.")
        by_model = answer.by == "model"
        events = run.events(history, item) if by_model and known else []
        shown = [event for event in events[:_EVENTS] if event.shares["share"] >= _LEAST]
        rest = max(0.0, 1 - sum(event.shares["share"] for event in shown))
        columns.append(
            {
                "run": run,
                "rows": list(zip(answer.item_ids, answer.scores, strict=True)),
                "by_model": by_model,
                "notes": notes,
                "shares": list(events[0].shares) if events else [],
                "events": shown,
                "most": max((event.shares["share"] for event in shown), default=1.0),
                "others": (len(events) - len(shown), rest),
            }
        )
    common = frozenset.intersection(*(frozenset(answer.item_ids) for answer in given))
    return {
        "question": question,
        "answers": columns,
        "explained": item,
        "following": following,
        "common": common if len(runs) > 1 else frozenset(),
    }


def _notes(run: ExploredRun, answer: Recommendation, total: int, k: int) -> list[str]:
    """Return what is to be known about an answer to a history of ``total`` items."""
    notes, found = [], len(answer.item_ids)
    if found < k:
        notes.append(
            f"{found or 'No'} {'item is' if found < 2 else 'items are'} left to recommend."
        )
    if answer.unknown:
        notes.append(f"{answer.unknown} of {total} items unknown to this run: skipped.")
    if answer.by == "popularity":
        return [*notes, "No known item in the history: the most popular items instead."]
    read = min(total - answer.unknown, run.model.max_len)
    newest = "the newest " if read < total - answer.unknown else ""
    return [
        *notes,
        f"Read: {newest}{read} of the history's {total} items. Score: the model's logit, higher is "
        "better. Items of the history are left out.",
    ]
