"""Two processes that meet and do one thing each: they end together, whatever it is."""

import signal
import socket
import subprocess
import sys

import pytest

from echojax.errors import UserError
from echojax.multihost.together import _described, _is_lost
from tests.conftest import ROOT

AGAIN = "; start all hosts again with --resume"


@pytest.fixture
def start():
    """Return a function that starts a host, which is ended with the test; give it its flags."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []

    def start(what, host):
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.multihost.host", what, "--coordinator", address,
                 "--num-processes", "2", "--process-id", str(host)],
                cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ends(process):
    _, error = process.communicate(timeout=240)
    return process.returncode, error


@pytest.mark.slow
def test_both_end_well(start):
    hosts = [start("nothing", host) for host in (0, 1)]
    assert [ends(host) for host in hosts] == [(0, ""), (0, "")]


def test_a_mistake_on_one_hosts_command_line_ends_the_other(start):
    fails, waits = start("mistake", 1), start("wait", 0)
    assert ends(fails) == (2, "error: a mistake\n")
    assert ends(waits) == (2, "error: host 1 has ended: a mistake\n")


@pytest.mark.slow
def test_a_disk_that_fails_the_first_host_ends_the_other(start):
    fails, waits = start("disk", 0), start("wait", 1)
    line = "cannot use /data/file: Input/output error; fix that, or name another place"
    assert ends(fails) == (2, f"error: {line}\n")
    assert ends(waits) == (2, f"error: host 0 has ended: {line}\n")


@pytest.mark.slow
def test_the_first_host_killed_ends_the_other(start):
    killed, waits = start("wait", 0), start("wait", 1)
    assert killed.stdout.readline() == waits.stdout.readline() == "joined\n"
    killed.send_signal(signal.SIGKILL)
    line = f"error: host 1 lost touch with another, killed or cut off{AGAIN}\n"
    assert ends(waits) == (1, line)


@pytest.mark.slow
@pytest.mark.parametrize("host", [0, 1])
@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("memory", 2, "out of memory; free some, or ask for less at once"),
        ("bug", 1, f"TypeError: a bug{AGAIN}"),
        ("ctrl-c", 130, f"stopped by Ctrl-C{AGAIN}"),
    ],
)
def test_any_failure_ends_the_other(start, what, code, says, host):
    fails, waits = start(what, host), start("wait", 1 - host)
    found, error = ends(fails)
    assert found == code
    assert error.startswith("Traceback") if what == "bug" else error == f"error: {says}\n"
    assert ends(waits) == (code, f"error: host {host} has ended: {says}\n")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_second_host_ends_the_first(start, how):
    lost, waits = start("wait", 1), start("wait", 0)
    assert lost.stdout.readline() == waits.stdout.readline() == "joined\n"
    lost.send_signal(how)
    line = f"error: host 0 lost touch with another, killed or cut off{AGAIN}\n"
    assert ends(waits) == (1, line)


@pytest.mark.slow
def test_a_host_that_comes_alone_gives_up(start):
    code, error = ends(start("alone", 1))
    assert code == 2
    assert error.startswith("error: the hosts did not all meet at 127.0.0.1:")


JaxRuntimeError = type("JaxRuntimeError", (RuntimeError,), {})


@pytest.mark.parametrize(
    ("error", "lost", "code", "says"),
    [
        (JaxRuntimeError("UNAVAILABLE: no answer"), True, 1, "a host lost touch with another ("),
        (ValueError("[/gloo/transport] Connection closed by peer"), True, 1, "a host lost touch"),
        (JaxRuntimeError("INTERNAL: a bug of a kernel"), False, 1, "JaxRuntimeError: INTERNAL"),
        (UserError("a mistake"), False, 2, "a mistake"),
    ],
)
def test_only_a_lost_connection_is_called_one(error, lost, code, says):
    line, found = _described(error)
    assert (line[: len(says)], found) == (says, code)
    assert _is_lost(error) == lost
