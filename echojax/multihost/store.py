"""Small texts between hosts, through the key-value store of JAX's coordination service.

Unlike collectives these need no device and no agreement on what comes next.
"""

import time
from typing import Any

_POLL_SECONDS = 0.2


def client() -> Any:
    """Return the connection to the coordination service; ``None`` before ``jax.distributed``."""
    from jax._src import distributed  # the public part of jax.distributed gives no access to it

    return distributed.global_state.client


def place() -> tuple[int, int]:
    """Return this host's number, from 0, and how many there are, without asking for devices.

    ``jax.process_index`` starts the devices, for which all hosts must do the same.
    """
    from jax._src import distributed

    return distributed.global_state.process_id, distributed.global_state.num_processes


def put(topic: str, text: str) -> None:
    """Leave a text of this host under a topic, once."""
    client().key_value_set(f"echojax/{topic}/{place()[0]}", text)


def texts(topic: str) -> dict[int, str]:
    """Return by host what is there under a topic."""
    found = client().key_value_dir_get(f"echojax/{topic}/")
    return {int(key.rpartition("/")[2]): text for key, text in sorted(found)}


def gather(topic: str, text: str, seconds: float = float("inf")) -> list[str]:
    """Leave a text, and return those of all hosts in their order; of fewer where time is up."""
    put(topic, text)
    until = time.monotonic() + seconds
    while len(found := texts(topic)) < place()[1] and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    return [found[host] for host in sorted(found)]
