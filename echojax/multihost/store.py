"""Small texts between hosts, through the key-value store of JAX's coordination service.

Unlike collectives, these need no device, and hosts need not agree on what comes next.
"""

import time
from typing import Any

_POLL_SECONDS = 0.2


def client() -> Any:
    """Return the connection to the coordination service; ``None`` before ``jax.distributed``."""
    from jax._src import distributed  # the public part of jax.distributed gives no access to it

    return distributed.global_state.client


def place() -> tuple[int, int]:
    """Return this host's number, from 0, and the number of hosts, without starting devices.

    ``jax.process_index`` starts the devices, which all hosts must do together.
    """
    from jax._src import distributed

    return distributed.global_state.process_id, distributed.global_state.num_processes


def put(topic: str, text: str) -> None:
    """Store a text of this host under a topic, once."""
    client().key_value_set(f"echojax/{topic}/{place()[0]}", text)


def texts(topic: str) -> dict[int, str]:
    """Return the texts under a topic, by host."""
    found = client().key_value_dir_get(f"echojax/{topic}/")
    return {int(key.rpartition("/")[2]): text for key, text in sorted(found)}


def gather(topic: str, text: str, seconds: float = float("inf")) -> list[str]:
    """Store a text, and return those of all hosts in order; of fewer after ``seconds``."""
    put(topic, text)
    until = time.monotonic() + seconds
    while len(found := texts(topic)) < place()[1] and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    return [found[host] for host in sorted(found)]
