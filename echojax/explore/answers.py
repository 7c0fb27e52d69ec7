"""A question and a run's answer to it as HTML."""

from collections.abc import Sequence
from html import escape

from echojax.explore.question import MOST, Question
from echojax.explore.runs import Event, ExploredRun
from echojax.serving.recommender import Recommendation

_EXAMPLES = 12  # users to pick from
_EVENTS = 50  # rows of events
_HIT = ' class="hit"'


def form(question: Question, run: ExploredRun) -> str:
    """Return the two ways to ask."""
    users = run.users(_EXAMPLES)
    examples = " ".join(
        f'<a href="{escape(Question(user, k=question.k).about(""))}">{escape(user)}</a>'
        for user in users
    )
    history = escape(" ".join(question.history))
    number = (
        f'<label>How many <input name="k" type="number" min="1" max="{MOST}" '
        f'value="{question.k}"></label>'
    )
    by_user = (
        f"""<form action="/" method="get">
<label>User <input name="user" value="{escape(question.user)}" required></label>
{number} <button>Recommend</button>
<p class="note-below">for example {examples}</p>
</form>"""
        if users
        else ""
    )
    return f"""<div class="ask">
{by_user}
<form action="/" method="get">
<label>History, item ids, oldest first
<textarea name="history" rows="2" required>{history}</textarea></label>
{number} <button>Recommend</button>
</form>
</div>"""


def answers(question: Question, runs: Sequence[ExploredRun]) -> str:
    """Return what the runs answer, side by side."""
    history, following = list(question.history), ""
    if question.user:
        history, following = runs[0].history_of(question.user)
    columns = "\n".join(_column(question, run, history, following) for run in runs)
    return f'<div class="runs">\n{columns}\n</div>'


def _column(question: Question, run: ExploredRun, history: list[str], following: str) -> str:
    answer = run.recommender.recommend([history], question.k)[0]
    item = question.item or answer.item_ids[0]
    explained = ""
    if answer.by == "model" and run.recommender.item_ids.number(item):
        explained = _events(run, item, run.events(history, item))
    notes = "".join(
        f'<p class="note-below">{escape(note)}</p>'
        for note in _notes(run, history, following, answer)
    )
    return f"""<section>
<h2>{escape(run.name)}</h2>
{_recommendations(question, run, answer, following)}
{notes}
{explained}
</section>"""


def _notes(
    run: ExploredRun, history: list[str], following: str, answer: Recommendation
) -> list[str]:
    notes = []
    if answer.unknown:
        notes.append(f"{answer.unknown} of {len(history)} items unknown to this run: skipped.")
    if answer.by == "popularity":
        notes.append("No known item in the history: the most popular items instead.")
    elif len(history) - answer.unknown > run.model.max_len:
        notes.append(f"The newest {run.model.max_len} of the history's items are read.")
    if following:
        rank = answer.item_ids.index(following) + 1 if following in answer.item_ids else 0
        where = f"number {rank} here" if rank else "not among these"
        notes.append(f"What came next in the data: {_words(run, following)}, {where}.")
    return notes


def _recommendations(
    question: Question, run: ExploredRun, answer: Recommendation, following: str
) -> str:
    by_model = answer.by == "model"
    rows = "\n".join(
        f"<tr{_HIT if item == following else ''}><td>{rank}</td>"
        f'<th scope="row"><a href="{escape(question.about(item))}">{_item(run, item)}</a></th>'
        f"<td>{score:.3f}</td></tr>"
        for rank, (item, score) in enumerate(zip(answer.item_ids, answer.scores, strict=True), 1)
    )
    return (
        '<div class="scroll"><table class="list"><thead><tr><th></th><th>item</th>'
        f"<th>{'score' if by_model else 'interactions'}</th></tr></thead>\n<tbody>\n{rows}\n"
        "</tbody></table></div>"
    )


def _events(run: ExploredRun, item: str, events: list[Event]) -> str:
    shown, rest = events[:_EVENTS], events[_EVENTS:]
    directions = list(shown[0].through)
    head = "".join(f"<th>{name}</th>" for name in ("share", *directions))
    most = max(event.share for event in shown) or 1.0
    rows = "\n".join(
        f'<tr><td>{event.ago}</td><th scope="row">{_item(run, event.item)}'
        f'<span class="bar" style="width:{100 * event.share / most:.1f}%"></span></th>'
        + "".join(
            f"<td>{100 * share:.1f} %</td>" for share in (event.share, *event.through.values())
        )
        + "</tr>"
        for event in shown
    )
    left = sum(event.share for event in rest)
    older = (
        f'<p class="note-below">{len(rest)} older events: {100 * left:.1f} %.</p>' if rest else ""
    )
    by_direction = (
        " Forward and backward: for gradients that pass through the Mambas of one direction alone."
        if directions
        else ""
    )
    return f"""<h3>What moved the score of {_item(run, item)}</h3>
<div class="scroll"><table class="list"><thead><tr><th>ago</th><th>event</th>{head}</tr></thead>
<tbody>
{rows}
</tbody></table></div>
{older}<p class="note-below">How much the score changes with the vector of each past event (input
gradient times length), as a share of all events.{by_direction}</p>"""


def _item(run: ExploredRun, item: str) -> str:
    title = run.titles.get(item)
    return f'{escape(title)} <span class="id">{escape(item)}</span>' if title else escape(item)


def _words(run: ExploredRun, item: str) -> str:
    return run.titles.get(item, item)
