"""Signals that stop a command: deferred while something is at work, else at once."""

import importlib
import os
import signal
import sys
import time

import pytest

from echojax.signals import Stopped, deferred_interrupts, stopping_at_once

KINDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_deferred_signal_is_remembered_and_one_outside_stops(kind):
    # Tests under nohup would find SIGHUP ignored.
    before = signal.signal(kind, signal.default_int_handler)
    try:
        with stopping_at_once():
            with deferred_interrupts("saved") as interrupts:
                os.kill(os.getpid(), kind)
            assert interrupts.signum == kind
            with pytest.raises(Stopped) as stop:
                os.kill(os.getpid(), kind)
        assert stop.value.signum == kind
        assert signal.getsignal(kind) == signal.default_int_handler
    finally:
        signal.signal(kind, before)


def test_a_signal_that_comes_while_handlers_are_set_is_remembered(monkeypatch):
    before, set_handler = [signal.getsignal(kind) for kind in KINDS], signal.signal

    def interrupted(kind, handler):
        old = set_handler(kind, handler)
        if kind == signal.SIGINT and handler not in before:
            signal.raise_signal(kind)
        return old

    monkeypatch.setattr(signal, "signal", interrupted)
    with deferred_interrupts("saved") as interrupts:
        assert interrupts.signum == signal.SIGINT
    assert [signal.getsignal(kind) for kind in KINDS] == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_at_once():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_import_is_not_broken_off(tmp_path, monkeypatch):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nis_whole = True\n"
    (tmp_path / "stopped_inside.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)

    def imports():
        with stopping_at_once():
            importlib.import_module("stopped_inside")
            time.sleep(60)

    with pytest.raises(Stopped):
        imports()
    assert sys.modules["stopped_inside"].is_whole


def test_one_that_comes_while_an_object_is_deleted_is_not_lost():
    class Deleted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    def deletes():
        with stopping_at_once():
            Deleted()
            time.sleep(60)

    with pytest.raises(Stopped):
        deletes()
