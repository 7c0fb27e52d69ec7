"""What a result says about where it comes from."""

import subprocess

import pytest

from echojax import machine


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Pretend that echojax runs from a checkout of one commit; return its folder."""
    (tmp_path / "echojax").mkdir()
    file = tmp_path / "echojax" / "machine.py"
    file.write_text("")
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(machine, "__file__", str(file))
    return tmp_path


def test_the_commit_is_named_and_code_changed_since(checkout):
    head = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    assert machine.commit() == head[:12]
    (checkout / "benchmarks").mkdir()
    (checkout / "benchmarks" / "page.md").write_text("results are no code")
    assert machine.commit() == head[:12]
    (checkout / "echojax" / "machine.py").write_text("changed")
    assert machine.commit() == f"{head[:12]}-dirty"


def test_an_installed_package_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "site" / "echojax" / "machine.py"))
    assert machine.commit() is None


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert machine.commit() is None
