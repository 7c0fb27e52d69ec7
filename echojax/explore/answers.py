"""The runs' answers to a question as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from echojax.explore.explanation import explanation, item_html
from echojax.explore.question import Question
from echojax.explore.runs import ExploredRun
from echojax.serving.recommender import Recommendation

_SIDE_BY_SIDE = """<p class="note-below">Both runs explain the same item: the one that you pick, or
the first run's best. Scores of two runs cannot be compared.</p>
"""


@dataclass(frozen=True)
class _Asked:
    """A question with what is known before a run's column is written.

    Attributes:
        question: the question.
        history: item ids, oldest first.
        following: what came next in the data; "" where it is not known.
        item: whose score is explained; "" for none.
        common: items that all of several runs recommend.
    """

    question: Question
    history: list[str]
    following: str
    item: str
    common: frozenset[str]


def answers(question: Question, runs: Sequence[ExploredRun]) -> str:
    """Return what the runs answer, side by side."""
    history, following = list(question.history), ""
    if question.user:
        history, following = runs[0].history_of(question.user)
    given = [run.recommender.recommend([history], question.k)[0] for run in runs]
    best = next((a.item_ids[0] for a in given if a.by == "model" and a.item_ids), "")
    common = frozenset.intersection(*(frozenset(answer.item_ids) for answer in given))
    asked = _Asked(
        question, history, following, question.item or best,
        common if len(runs) > 1 else frozenset(),
    )  # fmt: skip
    columns = "\n".join(
        _column(asked, run, answer, f"why-{number}")
        for number, (run, answer) in enumerate(zip(runs, given, strict=True), 1)
    )
    note = _SIDE_BY_SIDE if len(runs) > 1 and asked.item else ""
    return f'{note}<div class="runs">\n{columns}\n</div>'


def _column(asked: _Asked, run: ExploredRun, answer: Recommendation, anchor: str) -> str:
    explained = ""
    if answer.by == "model" and run.recommender.item_ids.number(asked.item):
        explained = explanation(run, asked.item, run.events(asked.history, asked.item), anchor)
    notes = "".join(
        f'<p class="note-below">{escape(note)}</p>' for note in _notes(asked, run, answer)
    )
    return f"""<section>
<h2>{escape(run.name)}</h2>
{_recommendations(asked, run, answer, anchor)}
{notes}
{explained}
</section>"""


def _notes(asked: _Asked, run: ExploredRun, answer: Recommendation) -> list[str]:
    found, total = len(answer.item_ids), len(asked.history)
    notes = []
    if found < asked.question.k:
        notes.append(
            f"{found or 'No'} {'item is' if found < 2 else 'items are'} left to recommend."
        )
    if answer.unknown:
        notes.append(f"{answer.unknown} of {total} items unknown to this run: skipped.")
    if answer.by == "popularity":
        notes.append("No known item in the history: the most popular items instead.")
    else:
        read = min(total - answer.unknown, run.model.max_len)
        newest = "the newest " if read < total - answer.unknown else ""
        notes.append(
            f"Read: {newest}{read} of the history's {total} items. Score: the model's logit, "
            "higher is better. Items of the history are left out."
        )
    if following := asked.following:
        rank = answer.item_ids.index(following) + 1 if following in answer.item_ids else 0
        where = f"number {rank} here" if rank else "not among these"
        words = run.titles.get(following, following)
        notes.append(
            f"The user's held-out last item, what came next in the data: {words}, {where}."
        )
    if asked.item and not run.recommender.item_ids.number(asked.item):
        notes.append(f"Item {asked.item[:50]!r} is unknown to this run: not explained.")
    return notes


def _recommendations(asked: _Asked, run: ExploredRun, answer: Recommendation, anchor: str) -> str:
    if not answer.item_ids:
        return ""
    by_model = answer.by == "model"
    head = (
        ("item: pick one to explain its score", "score") if by_model else ("item", "interactions")
    )
    rows = []
    for rank, (item, score) in enumerate(zip(answer.item_ids, answer.scores, strict=True), 1):
        name, number = item_html(run, item), f"{score:,.0f}"
        if by_model:
            link = escape(f"{asked.question.about(item)}#{anchor}")
            name, number = f'<a href="{link}">{name}</a>', f"{score:.3f}"
        chosen = ' class="chosen"' if by_model and item == asked.item else ""
        rows.append(
            f'<tr{chosen}><td>{rank}</td><th scope="row">{name}{_marks(asked, item)}</th>'
            f"<td>{number}</td></tr>"
        )
    return (
        f'<div class="scroll"><table class="list"><thead><tr><th></th><th>{head[0]}</th>'
        f"<th>{head[1]}</th></tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
    )


def _marks(asked: _Asked, item: str) -> str:
    came_next = ' <span class="hit">✓ came next</span>' if item == asked.following else ""
    common = ' <span class="common">· in both</span>' if item in asked.common else ""
    return came_next + common
