"""Why something was not measured, as it stands in a row of a file of measurements."""

import re
from typing import Any

_MOST_WORDS = 300  # characters: XLA's messages go on for pages


class Skipped(Exception):  # noqa: N818 (no error)
    """There is nothing to run, for the reason given."""


def not_measured(failure: Exception) -> dict[str, Any]:
    """Return ``status``, skipped or failed, and ``reason``, one line without paths."""
    words = " ".join(str(failure).split()) or "no reason given"
    words = re.sub(r"(?<![\w/])/[\w.+-]+(/[\w.+-]+)+", "...", words)[:_MOST_WORDS]
    if isinstance(failure, Skipped):
        return {"status": "skipped", "reason": words}
    return {"status": "failed", "reason": f"{type(failure).__name__}: {words}"}
