"""The two ways to ask, as HTML."""

from collections.abc import Mapping
from html import escape
from urllib.parse import urlencode

from echojax.explore.question import CHARACTERS, MOST
from echojax.explore.runs import ExploredRun

_EXAMPLES = 12  # users to pick from


def form(typed: Mapping[str, str], run: ExploredRun) -> str:
    """Return the forms, filled with what was typed, be it a question or a mistake."""
    user, history, k = (
        escape(typed.get(name, "")[:CHARACTERS]) for name in ("user", "history", "k")
    )
    number = (
        f'<label>How many <input name="k" type="number" min="1" max="{MOST}" '
        f'value="{k or 10}"></label>'
    )
    item_ids = escape(", ".join(run.recommender.item_ids.item_ids_V[1:4].tolist()))
    return f"""<div class="ask">
{_user_form(user, number, typed, run)}
<form action="/" method="get">
<label>History, item ids, oldest first
<textarea name="history" rows="2" placeholder="{item_ids}" required>{history}</textarea></label>
{number} <button>Recommend</button>
</form>
</div>
"""


def _user_form(user: str, number: str, typed: Mapping[str, str], run: ExploredRun) -> str:
    """Return the form for a user of the data; nothing where the data is not here."""
    asked = {"k": k} if (k := typed.get("k", "")[:CHARACTERS]) else {}
    examples = " ".join(
        f'<a href="{escape("/?" + urlencode({"user": name} | asked))}">{escape(name)}</a>'
        for name in run.users(_EXAMPLES)
    )
    if not examples:
        return ""
    return f"""<form action="/" method="get">
<label>User <input name="user" value="{user}" required></label>
{number} <button>Recommend</button>
<p class="note-below">for example {examples}</p>
</form>"""
