"""This process's place among several: read from the command line, checked before JAX sees it."""

import os
import socket
from dataclasses import dataclass

from echojax.command_line import flag_value
from echojax.errors import UserError

_FLAGS = ("--coordinator", "--num-processes", "--process-id")

# What the launchers of clusters that JAX knows set where there is more than one process.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class Place:
    """One of several processes; what is ``None`` JAX finds out from the cluster's launcher.

    Args:
        coordinator: address and port of the first process, HOST:PORT.
        hosts: how many processes there are.
        host: this one's number, from 0.
    """

    coordinator: str | None = None
    hosts: int | None = None
    host: int | None = None


def place_of(words: list[str]) -> Place | None:
    """Return the place that a command line, or a cluster's launcher, gives to this process.

    ``None`` where it is the only one.

    Raises:
        UserError: flags that name no place.
    """
    coordinator, *numbers = (flag_value(name, words) for name in _FLAGS)
    if coordinator is None and numbers == [None, None]:
        return Place() if _in_cluster() else None
    if coordinator is None or None in numbers:
        raise UserError(
            "--coordinator, --num-processes and --process-id go together; give all three or none"
        )
    _, port = _split(coordinator)
    if not 0 < port < 65536:
        raise UserError(f"--coordinator must have a port from 1 to 65535, not {port}")
    hosts, host = (_integer(name, str(n)) for name, n in zip(_FLAGS[1:], numbers, strict=True))
    if hosts < 1:
        raise UserError(f"--num-processes must be at least 1, not {hosts}")
    if not 0 <= host < hosts:
        raise UserError(
            f"--process-id must be from 0 to {hosts - 1}, as --num-processes is {hosts}, "
            f"and not {host}"
        )
    return Place(coordinator, hosts, host)


def check_port_is_free(coordinator: str) -> None:
    """Raise ``UserError`` where another program listens on the port that the first host opens."""
    _, port = _split(coordinator)
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"--coordinator {coordinator}: port {port} cannot be opened ({reason}); name another "
            "port on all hosts"
        ) from None


def _split(coordinator: str) -> tuple[str, int]:
    """Return host name and port."""
    name, _, port = coordinator.rpartition(":")
    if not name or not port.isdecimal():
        raise UserError(
            f"--coordinator must be HOST:PORT of host 0, such as 10.0.0.1:9876, not {coordinator!r}"
        )
    return name, int(port)


def _integer(name: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UserError(f"{name}: INT expected, not {word!r}") from None


def _in_cluster() -> bool:
    """Say whether a launcher has started several processes in a way that JAX recognises."""
    several = any(int(os.environ.get(name, "1")) > 1 for name in _COUNTS)
    pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    job = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys()
    return several or pod or job
