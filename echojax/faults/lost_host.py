"""Two hosts train together; one is lost, and a single one goes on."""

import random
import signal
import socket
import time
from pathlib import Path

from echojax.faults.hit import Hit
from echojax.faults.run_folder import newest
from echojax.faults.tiny_run import TinyRun, ended, wait_for
from echojax.faults.undisturbed import Undisturbed

NOTICED_SECONDS = 90.0


def lose_a_host(tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random) -> Hit:
    """Kill the second of two hosts: the first must end by itself, with a line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    first, second = (tiny.start(run, *hosts, host) for host in "01")
    try:
        step = undisturbed.draw(rng, spare=5)
        wait_for(first, lambda: newest(run) >= step)
    finally:
        second.send_signal(signal.SIGKILL)
        ended(second)
    began = time.monotonic()
    end = ended(first, NOTICED_SECONDS)
    problems: tuple[str, ...] = ()
    if end.code == 0:
        problems = ("the first host went on alone",)
    elif "lost touch" not in end.error:
        problems = (f"no line that says so: {end.error[-300:]!r}",)
    what = f"the second of two hosts killed; the first ended in {time.monotonic() - began:.0f} s"
    return Hit(what, newest(run), problems)
