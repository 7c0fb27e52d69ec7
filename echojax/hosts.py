"""Several processes as one program: what the first one sends to the others.

Every process runs the same code on its own devices. Only the first one reads and writes run
folders and prints for the user; what it reads there, it sends to the others.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from echojax.errors import UserError


def is_main_process() -> bool:
    """Return whether this is the process that writes."""
    return jax.process_index() == 0


def on_main_process(read: Callable[..., Any], *args: Any) -> Any:
    """Return on every host what ``read(*args)``, JSON values, returns on the first one.

    A ``UserError`` there is raised on every host.
    """
    if jax.process_count() == 1:
        return read(*args)
    answer: dict[str, Any] = {}
    if is_main_process():
        try:
            answer = {"value": read(*args)}
        except UserError as error:
            answer = {"error": str(error)}
    answer = json.loads(_broadcast_text(json.dumps(answer).encode()))
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def _broadcast_text(text: bytes) -> bytes:
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)[:size]
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()
