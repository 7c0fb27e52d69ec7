"""Bytes that change behind a run's back: checkpoints, folders, data."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

from echojax.faults.hit import Hit, refused
from echojax.faults.run_state import newest, whole_steps
from echojax.faults.tiny_run import Ended, TinyRun, ended, wait_for


def flip_bytes(path: Path, rng: random.Random) -> str:
    """Change a byte in every hundred of a file: some of them are of no use to anybody."""
    content = bytearray(path.read_bytes())
    places = rng.sample(range(len(content)), -(-len(content) // 100))
    for place in places:
        content[place] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    return f"{len(places)} bytes flipped"


def cut_short(path: Path, rng: random.Random) -> str:
    """Take bytes from the end of a file."""
    size = path.stat().st_size
    left = rng.randrange(size // 2)
    with path.open("rb+") as file:
        file.truncate(left)
    return f"{size - left} of {size} bytes missing"


def remove(path: Path, rng: random.Random) -> str:
    """Delete a file."""
    path.unlink()
    return "deleted"


def damage_newest(
    tiny: TinyRun, run: Path, *, harm: Callable[[Path, random.Random], str], rng: random.Random
) -> Hit:
    """Kill a run that has several checkpoints, and damage the largest file of the newest one."""
    end = _killed_behind_checkpoints(tiny, run)
    *_, before, last = whole_steps(run)
    files = (run / "checkpoints" / str(last)).rglob("*")
    path = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
    what = harm(path, rng)
    return Hit(f"step {last}: largest file, {what}", before, end)


def move_folder(tiny: TinyRun, run: Path) -> Hit:
    """Kill a run and give its folder another name."""
    end = _killed_behind_checkpoints(tiny, run)
    moved = run.with_name(f"{run.name}-moved") / "elsewhere"
    moved.parent.mkdir()
    run.rename(moved)
    return Hit("killed, then moved to another folder", newest(moved), end, run=moved)


def change_data(tiny: TinyRun, run: Path) -> Hit:
    """Kill a run, change one item of its data: it must refuse to go on. The data are restored."""
    _killed_behind_checkpoints(tiny, run)
    content, before = tiny.data.read_text(), newest(run)
    tiny.data.write_text(content.replace("\ti1\t", "\ti2\t", 1))
    end = tiny.to_the_end(run)
    tiny.data.write_text(content)
    problems = refused(end, "sha256", str(run))
    if newest(run) != before:
        problems += ("it trained on other data",)
    return Hit("one item of the data file changed; refused", before, end, problems)


def _killed_behind_checkpoints(tiny: TinyRun, run: Path) -> Ended:
    """Kill a run that has made three checkpoints more than it had."""
    process, before = tiny.start(run), newest(run)
    wait_for(process, lambda: sum(step > before for step in whole_steps(run)) >= 3)
    process.send_signal(signal.SIGKILL)
    return ended(process)
