"""Several processes as one program: how they find each other, and what the first tells the rest.

Every process runs the same code on its own devices. The first one alone reads and writes run
folders and speaks to the user; what it reads there, it tells the others.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from echojax.errors import UserError, os_failure_is_user_error, one_line

# A host that does not answer for so long is lost, and the others stop.
HEARTBEAT_SECONDS = 30

# What the launchers of clusters that JAX knows set where there is more than one process.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")


def join(coordinator: str | None, hosts: int | None, host: int | None) -> None:
    """Connect to the other processes, before JAX is used for anything else.

    They are found without help on Slurm, Open MPI, Kubernetes jobs and Cloud TPU; elsewhere all
    three arguments are needed.

    Args:
        coordinator: address and port of the first process.
        hosts: how many processes there are.
        host: this one's number, from 0.

    Raises:
        UserError: some of the three are missing, or the others cannot be reached.
    """
    given = [value is not None for value in (coordinator, hosts, host)]
    if any(given) and not all(given):
        raise UserError("--coordinator, --hosts and --host go together; give all three or none")
    if not any(given) and not _in_cluster():
        return
    try:
        jax.distributed.initialize(
            coordinator, hosts, host, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the other hosts: {error}") from None


@contextmanager
def stop_with_the_others() -> Iterator[None]:
    """End this process at once when it fails or another host is lost, with one line.

    A process that ended as usual would first wait for the others, and they for it.
    """
    try:
        with os_failure_is_user_error():
            yield
    except (UserError, jax.errors.JaxRuntimeError) as error:
        if jax.process_count() == 1:
            raise
        line = one_line(error)
        if not isinstance(error, UserError):
            line = (
                f"host {jax.process_index()} lost touch with another ({line[:200]}); start all "
                "hosts again with --resume"
            )
        print(f"error: {line}", file=sys.stderr, flush=True)
        os._exit(2 if isinstance(error, UserError) else 1)


def first_host() -> bool:
    """Say whether this is the process that writes."""
    return jax.process_index() == 0


def on_first(read: Callable[..., Any], *args: Any) -> Any:
    """Return on every host what ``read(*args)``, JSON values, returns on the first one.

    Raises:
        UserError: on every host, where it is raised on the first.
    """
    if jax.process_count() == 1:
        return read(*args)
    answer: dict[str, Any] = {}
    if first_host():
        try:
            answer = {"value": read(*args)}
        except UserError as error:
            answer = {"error": str(error)}
    answer = json.loads(_tell(json.dumps(answer).encode()))
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def tell(tree: Any) -> Any:
    """Return the first host's arrays on every host; all give arrays of the same shapes."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def _tell(text: bytes) -> bytes:
    size = int(tell(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)[:size]
    return np.asarray(tell(padded)).tobytes()


def _in_cluster() -> bool:
    """Say whether a launcher has started several processes in a way that JAX recognises."""
    several = any(int(os.environ.get(name, "1")) > 1 for name in _COUNTS)
    pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    job = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys()
    return several or pod or job
