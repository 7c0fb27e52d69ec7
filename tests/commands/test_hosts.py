"""Two processes with four simulated devices each train as one does, and survive a loss."""

import json
import signal
import socket
import time

import pytest

from tests.commands.conftest import SMALL

EPOCHS = 12


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["epoch"]: line["loss"] for line in lines if line["kind"] == "valid"}


def wait_for(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.fixture
def on_four(environment, monkeypatch):
    """Give each process four devices."""
    flags = environment["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    monkeypatch.setitem(environment, "XLA_FLAGS", flags)
    monkeypatch.setitem(environment, "JAX_PLATFORMS", "cpu")


def test_two_hosts_one_lost_and_resumed_on_one(start, command, data_file, on_four, tmp_path):
    def flags(folder):
        return ["--data-path", data_file, *SMALL, "--scan", "sequential", "--run-dir", folder,
                "--epochs", EPOCHS, "--patience", EPOCHS]  # fmt: skip

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    together, alone = tmp_path / "together", tmp_path / "alone"
    hosts = ["--coordinator", address, "--hosts", 2, "--host"]
    first, second = (start("train.py", *flags(together), *hosts, host) for host in (0, 1))
    # The second is lost; the first notices and ends.
    wait_for(lambda: (together / "metrics.jsonl").exists() and losses(together), 120)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    said, error = first.communicate(timeout=90)
    assert first.returncode != 0
    assert "2 hosts: when one is lost" in said
    assert "another task died" in error or "lost touch" in error
    done = losses(together)

    # What both had done is what one does alone, and one process goes on from there.
    code, said, error = command("train.py", *flags(alone))
    assert code == 0, error
    code, said, error = command("train.py", "--resume", "--run-dir", together)
    assert code == 0, error
    assert "resumed from step" in said
    expected, found = losses(alone), losses(together)
    assert 1 <= len(done) <= EPOCHS
    assert found.keys() == expected.keys()
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-3)


def test_half_an_address_is_refused(command):
    code, _, error = command("train.py", "--hosts", 2)
    assert code == 2
    assert error.startswith("error: --coordinator, --hosts and --host go together")
