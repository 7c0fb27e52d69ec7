import socket

import pytest

from echojax.errors import UserError
from echojax.multihost.place import Place, check_port_is_free, place_of


def flags(coordinator, hosts, host):
    numbers = ["--num-processes", hosts, f"--process-id={host}"]
    return ["--epochs", "3", "--coordinator", coordinator, *numbers]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    for name in (
        "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES",
        "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def test_one_process_has_no_place():
    assert place_of(["--epochs", "3"]) is None


def test_a_place_is_read_from_the_command_line():
    assert place_of(flags("10.0.0.1:1234", "4", "3")) == Place("10.0.0.1:1234", 4, 3, 50)
    assert place_of(flags("[::1]:1234", "1", "0")) == Place("[::1]:1234", 1, 0, 50)


def test_of_a_flag_given_twice_the_last_holds():
    words = [*flags("10.0.0.1:1234", "4", "3"), "--process-id", "2", "--num-processes=5"]
    assert place_of(words) == Place("10.0.0.1:1234", 5, 2, 50)


def test_a_cluster_finds_the_place(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert place_of([]) == Place()
    assert place_of(["--join-seconds", "9"]) == Place(seconds=9)


@pytest.mark.parametrize("tasks", ["", "1", "x"])
def test_one_task_or_none_is_one_process(monkeypatch, tasks):
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    assert place_of([]) is None


def test_tasks_that_nobody_started_are_refused_at_once(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(UserError, match="4 processes would be awaited, and one came; start it by"):
        place_of([])
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # an interactive step
    assert place_of([]) is None


@pytest.mark.parametrize(
    ("name", "place"), [("train-1.train.ns.svc.cluster.local", Place()), ("train-1", None)]
)
def test_an_indexed_job_without_a_service_is_an_array(monkeypatch, name, place):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setattr(socket, "getfqdn", lambda: name)
    assert place_of([]) == place


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--num-processes", "2"], "--coordinator, --num-processes and --process-id go together"),
        (flags("10.0.0.1", "2", "0"), "must be HOST:PORT of host 0, such as 10.0.0.1:9876, not"),
        (flags(":1234", "2", "0"), "must be HOST:PORT"),
        (flags("10.0.0.1:http", "2", "0"), "must be HOST:PORT"),
        (flags("10.0.0.1:0", "2", "0"), "a port from 1 to 65535, not 0"),
        (flags("10.0.0.1:65536", "2", "0"), "a port from 1 to 65535, not 65536"),
        (flags("10.0.0.1:1234", "two", "0"), "--num-processes: INT expected, not 'two'"),
        (flags("10.0.0.1:1234", "0", "0"), "--num-processes must be at least 1, not 0"),
        (
            flags("10.0.0.1:1234", "2", "2"),
            "--process-id must be from 0 to 1, as --num-processes is 2, and not",
        ),
        (flags("10.0.0.1:1234", "2", "-1"), "--process-id must be from 0 to 1"),
    ],
)
def test_flags_that_name_no_place_are_refused(words, says):
    with pytest.raises(UserError, match=says.replace(".", r"\.")):
        place_of(words)


def test_a_taken_port_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=r"cannot be opened \(Address already in use\); name"):
            check_port_is_free(address)
    check_port_is_free(address)
