"""What moved an item's score, as HTML."""

from html import escape

from echojax.explore.runs import Event, ExploredRun

_EVENTS = 50  # rows
_LEAST = 0.001  # share of an event that has a row of its own


def explanation(run: ExploredRun, item: str, events: list[Event], anchor: str) -> str:
    """Return the events that the model reads, newest first, and each one's share.

    Args:
        run: the run.
        item: whose score it is.
        events: all that were read; at least one.
        anchor: the heading's id.
    """
    shown = [event for event in events[:_EVENTS] if event.share >= _LEAST]
    head = "".join(f"<th>{name}</th>" for name in ("share", *events[0].through))
    most = max((event.share for event in shown), default=1.0)
    rows = "\n".join(_row(run, event, most) for event in shown)
    by_direction = (
        " Forward and backward: for gradients that pass through the Mambas of one direction alone."
        if events[0].through
        else ""
    )
    return f"""<h3 id="{anchor}">What moved the score of {item_html(run, item)}</h3>
<p class="note-below">How strongly, not in which direction: how much the score changes with the
vector of each past event (input gradient times length), as a share of all events.{by_direction}</p>
<div class="scroll"><table class="list"><thead><tr><th>events ago</th><th>event</th>{head}</tr>
</thead><tbody>
{rows}
</tbody></table></div>
{_others(len(events) - len(shown), 1 - sum(event.share for event in shown))}"""


def _row(run: ExploredRun, event: Event, most: float) -> str:
    shares = "".join(
        f"<td>{100 * share:.1f} %</td>" for share in (event.share, *event.through.values())
    )
    return (
        f'<tr><td>{event.ago}</td><th scope="row">{item_html(run, event.item)}'
        f'<span class="bar" style="width:{100 * event.share / most:.1f}%"></span></th>{shares}</tr>'
    )


def _others(number: int, share: float) -> str:
    """Return the line that stands for the events without a row."""
    if not number:
        return ""
    noun = "event" if number == 1 else "events"
    return f'<p class="note-below">{number} other {noun}: {100 * max(0.0, share):.1f} %.</p>'


def item_html(run: ExploredRun, item: str) -> str:
    """Return an item's title, where it has one, and its id."""
    title = run.titles.get(item)
    return f'{escape(title)} <span class="id">{escape(item)}</span>' if title else escape(item)
