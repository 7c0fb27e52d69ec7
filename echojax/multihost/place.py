"""This process's place among several: read from the command line, checked before JAX sees it."""

import os
import socket
from dataclasses import dataclass

from echojax.command_line import flag_value
from echojax.errors import UserError

# How long the first processes wait for the last, with --coordinator or on a cluster.
_JOIN_SECONDS, _CLUSTER_JOIN_SECONDS = 50, 300


@dataclass(frozen=True)
class Place:
    """One of several processes; JAX gets what is ``None`` from the cluster's launcher."""

    coordinator: str | None = None  # address and port of the first process, HOST:PORT
    hosts: int | None = None  # the number of processes
    host: int | None = None  # this process's number, from 0
    seconds: int = _CLUSTER_JOIN_SECONDS  # how long the first of them wait for the last


def place_of(words: list[str]) -> Place | None:
    """Return the place that a command line, or a cluster's launcher, gives to this process.

    It is ``None`` if this is the only process.
    """
    coordinator = flag_value("--coordinator", words)
    hosts, host = _number("--num-processes", words, least=1), _number("--process-id", words)
    seconds = _number("--join-seconds", words, least=1)
    if coordinator is None and hosts is None and host is None:
        return Place(seconds=seconds or _CLUSTER_JOIN_SECONDS) if _in_cluster() else None
    if coordinator is None or hosts is None or host is None:
        raise UserError(
            "--coordinator, --num-processes and --process-id go together; give all three or none"
        )
    if not 0 < (port := _port(coordinator)) < 65536:
        raise UserError(f"--coordinator must have a port from 1 to 65535, not {port}")
    if not 0 <= host < hosts:
        raise UserError(
            f"--process-id must be from 0 to {hosts - 1}, as --num-processes is {hosts}, "
            f"and not {host}"
        )
    return Place(coordinator, hosts, host, seconds or _JOIN_SECONDS)


def check_port_is_free(coordinator: str) -> None:
    """Raise ``UserError`` if the port that the first host opens is already in use."""
    port, dual = _port(coordinator), socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"--coordinator {coordinator}: port {port} cannot be opened ({reason}); name another "
            "port on all hosts"
        ) from None


def _port(coordinator: str) -> int:
    name, _, port = coordinator.rpartition(":")
    if not name or not port.isdecimal():
        raise UserError(
            f"--coordinator must be HOST:PORT of host 0, such as 10.0.0.1:9876, not {coordinator!r}"
        )
    return int(port)


def _number(name: str, words: list[str], least: int | None = None) -> int | None:
    """Return the number that is given to a flag; ``None`` if it is not given."""
    if (word := flag_value(name, words)) is None:
        return None
    try:
        number = int(word)
    except ValueError:
        raise UserError(f"{name}: INT expected, not {word!r}") from None
    if least is not None and number < least:
        raise UserError(f"{name} must be at least {least}, not {number}")
    return number


def _in_cluster() -> bool:
    """Return whether a launcher that JAX recognises has started several processes."""
    several = _count("OMPI_COMM_WORLD_SIZE") > 1 or _count("SLURM_STEP_NUM_TASKS") > 1
    if not several and _count("SLURM_NTASKS") > 1 and "SLURM_STEP_NUM_TASKS" not in os.environ:
        tasks = os.environ["SLURM_NTASKS"]
        raise UserError(
            f"Slurm has {tasks} tasks (SLURM_NTASKS) and this process was started without srun: "
            f"{tasks} processes would be awaited, and one came; start it by srun, or unset "
            "SLURM_NTASKS to train with one process"
        )
    pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    # The pods of a job that is an array of trainings have no service through which to meet.
    job = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys()
    return several or pod or (job and ".svc." in socket.getfqdn())


def _count(name: str) -> int:
    """Return the number of processes in an environment variable; 0 if it is not a number."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else 0
