"""Bytes that change while a run is not looking: checkpoints, folders, data."""

import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from echojax.faults.hit import Hit, refused
from echojax.faults.run_folder import newest, whole_steps
from echojax.faults.stops import kill_after
from echojax.faults.tiny_run import TinyRun
from echojax.faults.undisturbed import Undisturbed

Harm = Callable[[Path, Path, random.Random], str]


def flip_bytes(last: Path, before: Path, rng: random.Random) -> str:
    """Change a byte in every hundred of the largest file: some are of no use to anybody."""
    path = _largest(last)
    content = bytearray(path.read_bytes())
    places = rng.sample(range(len(content)), -(-len(content) // 100))
    for place in places:
        content[place] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    return f"{len(places)} bytes of its largest file flipped"


def cut_short(last: Path, before: Path, rng: random.Random) -> str:
    """Take bytes from the end of the largest file."""
    path = _largest(last)
    size = path.stat().st_size
    left = rng.randrange(size // 2)
    with path.open("rb+") as file:
        file.truncate(left)
    return f"{size - left} of {size} bytes of its largest file missing"


def remove(last: Path, before: Path, rng: random.Random) -> str:
    """Delete the largest file."""
    _largest(last).unlink()
    return "its largest file deleted"


def swap_arrays(last: Path, before: Path, rng: random.Random) -> str:
    """Put another checkpoint's arrays there: their format alone finds nothing wrong with them."""
    shutil.rmtree(last / "state")
    shutil.copytree(before / "state", last / "state")
    return f"its arrays are those of step {before.name}"


def damage_newest(
    tiny: TinyRun, run: Path, *, harm: Harm, undisturbed: Undisturbed, rng: random.Random
) -> Hit:
    """Kill a run after its best validation and harm its newest checkpoint."""
    later = [step for step in undisturbed.steps if step > undisturbed.best]
    kill_after(tiny, run, rng.choice(later[1:-1]))
    *_, before, last = whole_steps(run)
    checkpoints = run / "checkpoints"
    what = harm(checkpoints / str(last), checkpoints / str(before), rng)
    return Hit(f"step {last}: {what}", before)


def move_folder(tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random) -> Hit:
    """Kill a run and give its folder another name."""
    kill_after(tiny, run, undisturbed.draw(rng))
    moved = run.with_name(f"{run.name}-moved") / "elsewhere"
    moved.parent.mkdir()
    run.rename(moved)
    return Hit("killed, then moved to another folder", newest(moved), run=moved)


def change_data(tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random) -> Hit:
    """Kill a run, change one item of its data: it must refuse to go on. The data are restored."""
    own = run.with_name(f"{run.name}-data") / tiny.data.name
    own.parent.mkdir()
    shutil.copy(tiny.data, own)
    tiny = dataclasses.replace(tiny, data=own)
    kill_after(tiny, run, undisturbed.draw(rng))
    content, before = own.read_text(), newest(run)
    own.write_text(content.replace("\ti1\t", "\ti2\t", 1))
    end = tiny.to_the_end(run)
    own.write_text(content)
    problems = refused(end, "sha256", str(run))
    if newest(run) != before:
        problems += ("it trained on other data",)
    return Hit("one item of the data file changed; refused", before, problems, tiny=tiny)


def _largest(folder: Path) -> Path:
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)
