"""``echojax COMMAND``: how a command is chosen, and what each is told before it works."""

import os
import subprocess
import sys

import pytest

import echojax
from echojax.commands import COMMANDS
from tests.conftest import only_line

MISTAKE = "import sys; sys.argv[1:] = {words}; from echojax.commands import main; main()"


def test_without_a_command_and_with_an_unknown_one(call, works, mistake):
    assert f"name a command: {', '.join(COMMANDS)}" in mistake()
    assert "unknown command 'trian'; did you mean 'train'" in mistake("trian")
    assert call()[1] == call("trian")[1] == ""
    out = works("--help")
    assert all(f"  {name} " in out for name in COMMANDS)
    assert call("help") == (0, out, "")


def test_models_are_float32_whatever_jax_is_told(works, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    works("--version")
    assert "JAX_ENABLE_X64" not in os.environ


def test_its_version(call):
    assert call("--version") == (0, f"echojax {echojax.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["scans", "--length", 0], "--length must be at least 1, not 0"),
        (["scans", "--seconds", -1], "--seconds must be at least 0, not -1.0"),
        (["recommend", "--run-dir", "run", "--history", "a", "-k", 0], "-k must be at least 1"),
        (["recommend", "--run-dir", "run", "--batch-size", 0], "--batch-size must be at least 1"),
        (["export", "--run-dir", "run", "--output", "out", "-k", 0], "-k must be at least 1"),
        (["reproduce", "--tune", 0], "--tune must be at least 1, not 0"),
        (["data", "ml-1m", "--k-core", -1], "--k-core must be at least 0, not -1"),
    ],
)
def test_numbers_outside_their_limits_are_refused(words, says, mistake):
    assert says in mistake(*words)


def test_data_that_are_not_named_or_not_known(mistake):
    assert "Missing from echojax data: DATA (see" in mistake("data")
    assert "unknown file or data set 'ML-1M'; did you mean 'ml-1m'?" in mistake("data", "ML-1M")
    assert "ml-1m.csv: no such file" in mistake("data", "ml-1m.csv")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_has_help_and_names_itself_in_mistakes(name, call, works):
    assert f"usage: echojax {name} " in works(name, "--help")
    code, out, err = call(name, "--widht", "8")
    assert (code, out) == (2, "")
    assert f"(see echojax {name} --help)" in only_line(err)


def test_help_shows_the_defaults_that_a_command_has_with_data(works):
    for name, epochs in {"train": 200, "tune": 30}.items():
        shown = works(name, "--help").partition("--epochs INT")[2]
        assert shown.partition("(default: ")[2].startswith(f"{epochs})")


def test_a_shell_gets_completion(works):
    out = works("--tyro-print-completion", "bash")
    assert "--exclude-seen" in out
    assert "reproduce" in out


@pytest.mark.parametrize("words", [["train", "--help"], ["train", "--widht", "8"]])
def test_closed_streams_bring_no_traceback(words, environment):
    """What a shell's >&- does; 2>&1 too, so that a complaint of Python's own is seen."""
    command = [sys.executable, "-c", MISTAKE.format(words=words)]
    ended = subprocess.run(
        ["bash", "-c", '"$@" >&-', "bash", *command],
        env=environment, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr
    if "--help" in words:
        assert (ended.returncode, ended.stderr) == (0, "")
    else:
        assert ended.returncode == 2
        only_line(ended.stderr)


def test_scans_are_measured_here(works):
    out = works(
        "scans", "--batch", 1, "--length", 3, "--channels", 2, "--states", 2, "--seconds", 0
    )
    assert "pallas_tpu cannot run here" in out
    assert "associative" in out
