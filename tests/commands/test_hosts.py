"""Two processes with four simulated devices each train as one does, or not at all."""

import json
import signal
import socket

import pytest

from echojax.commands.train import read_command_line
from echojax.config import Config, as_dict
from echojax.files import write_json
from tests.commands.conftest import wait_until
from tests.commands.test_train import steps
from tests.conftest import SMALL

EPOCHS = 12


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["epoch"]: line["loss"] for line in lines if line["kind"] == "valid"}


@pytest.fixture
def on_four(environment, monkeypatch, tmp_path):
    """Give each process four devices, and programs that were compiled for them."""
    flags = environment["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    monkeypatch.setitem(environment, "XLA_FLAGS", flags)
    monkeypatch.setitem(environment, "JAX_PLATFORMS", "cpu")
    # Programs that the cache gives back for other devices than they were compiled for end JAX.
    monkeypatch.setitem(environment, "JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))


@pytest.fixture
def hosts():
    """Return the flags that name two hosts, but for the number of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return ["--coordinator", address, "--num-processes", 2, "--process-id"]


@pytest.mark.slow
def test_two_hosts_one_lost_and_resumed_on_one(start, command, data_file, on_four, hosts, tmp_path):
    def flags(folder):
        return ["--data-path", data_file, *SMALL, "--run-dir", folder,
                "--epochs", EPOCHS, "--patience", EPOCHS]  # fmt: skip

    together, alone = tmp_path / "together", tmp_path / "alone"
    first, second = (start("train", *flags(together), *hosts, host) for host in (0, 1))
    # The second is lost; the first notices and ends.
    wait_until(lambda: steps(together))
    second.send_signal(signal.SIGKILL)
    second.communicate()
    said, error = first.communicate(timeout=90)
    assert first.returncode == 1
    assert "2 hosts: when one is lost" in said
    assert "lost touch" in error
    assert error.count("\n") == 1
    done = losses(together)

    # What both had done is what one process does, and one process goes on from there.
    code, said, error = command("train", *flags(alone))
    assert code == 0, error
    code, said, error = command("train", "--resume", "--run-dir", together)
    assert code == 0, error
    assert "resumed from step" in said
    expected, found = losses(alone), losses(together)
    assert 1 <= len(done) <= EPOCHS
    assert found.keys() == expected.keys()
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-3)


@pytest.mark.slow
def test_hosts_with_other_flags_do_not_start(start, data_file, hosts, tmp_path):
    folder = tmp_path / "run"
    flags = ["--data-path", data_file, *SMALL, "--run-dir", folder]
    first = start("train", *flags, "--epochs", 3, *hosts, 0)
    second = start("train", *flags, "--epochs", 4, "--learning-rate", 0.05, *hosts, 1)
    for host in (first, second):
        _, error = host.communicate(timeout=90)
        assert host.returncode == 2
        assert error.endswith(
            "hosts differ: --learning-rate is 0.01 on host 0 and 0.05 on host 1, --epochs is 3 on "
            "host 0 and 4 on host 1; make them the same on all hosts\n"
        )
        assert error.count("\n") == 1
    assert not folder.exists()


def test_only_the_first_host_needs_the_run_folder(tmp_path):
    stored = Config(loss="gbce", d_model=8)
    write_json(tmp_path / "config.json", as_dict(stored))
    flags = ["--resume", "--run-dir", str(tmp_path), "--gbce-t", "0.5"]
    config = read_command_line(flags)
    assert (config.loss, config.d_model, config.gbce_t) == ("gbce", 8, 0.5)
    given = read_command_line(flags, stored=False)
    assert (given.loss, given.d_model, given.gbce_t) == ("softmax", None, 0.5)


def test_half_an_address_is_refused(mistake):
    says = "error: --coordinator, --num-processes and --process-id go together"
    assert mistake("train", "--num-processes", 2).startswith(says)
