"""``--profile N``: a trace of N steps, where their time went, what the program cost to make."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from echojax.files import write_json
from echojax.training.trace import INPUT, STEP, Split, read_split, total

# Steps before the trace: the first ones fill caches and buffers, the others are timed.
_WARM, _TIMED = 2, 3
PARTS = ("compute", "collectives", "input", "host")


class Profile:
    """Watches a training loop; traces ``steps`` of its steps once (none: does nothing).

    Where an epoch ends in between, the trace ends too, and another one begins with the next.

    Args:
        steps: to trace.
        folder: the run folder; gets ``profile/`` and ``profile.json``.
        say: prints a line.
    """

    def __init__(self, steps: int, folder: Path, say: Callable[[str], None]):
        self._left, self._folder, self._say = steps, folder, say
        self._program: dict[str, Any] = {}
        self._text = ""
        self._done = 0  # steps of this start
        self._untraced = 0.0  # seconds of those that are timed
        self._began: float | None = None  # these, where one is running
        self._step: jax.profiler.TraceAnnotation | None = None  # the traced one that is running
        self._splits: list[Split] = []

    def note_program(self, compiled: jax.stages.Compiled, seconds: dict[str, Any]) -> None:
        """Take in the step's program, and what it took to make it."""
        if self._left:
            self._text = compiled.as_text() or ""
            memory = compiled.memory_analysis()
            self._program = {"compile": seconds, "memory": memory and _bytes_of(memory)}

    def next_step(self, states: Any) -> float:
        """Begin a step from ``states``; return the seconds that profiling itself took."""
        if not self._left:
            return 0.0
        began = time.perf_counter()
        if self._done in (_WARM, _WARM + _TIMED) or (self._step and self._left == 1):
            self.end_epoch(states)
        if not self._left:
            pass
        elif self._done >= _WARM + _TIMED:
            self._mark()
        elif self._done >= _WARM and self._began is None:
            self._began = time.perf_counter()
        self._done += 1
        return time.perf_counter() - began

    def waiting(self) -> AbstractContextManager[Any]:
        """Return what marks the wait for a batch in the trace."""
        return jax.profiler.TraceAnnotation(INPUT)

    def end_epoch(self, states: Any) -> None:
        """Wait until the devices are done, whose work belongs to the steps; stop clock or trace."""
        if not self._left:
            return
        jax.block_until_ready(states)
        if self._began is not None:
            self._untraced += time.perf_counter() - self._began
            self._began = None
        if self._step is not None:
            self._close()
            jax.profiler.stop_trace()
            self._splits.append(read_split(self._folder / "profile", self._text))
            if not self._left:
                self._report()

    def end_run(self) -> None:
        """Report what there is where the run had fewer steps."""
        if self._splits and self._left:
            self._report()
        elif self._left:
            self._say(
                f"profile: no trace; the first {_WARM + _TIMED} steps are left out, and there were "
                f"{self._done}"
            )
        self._left = 0

    def _mark(self) -> None:
        """Mark the next step in the trace; begin a trace where none is on."""
        if self._step is not None:
            self._close()
        else:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every Python call: a multiple of all other events
            jax.profiler.start_trace(str(self._folder / "profile"), profiler_options=options)
        self._step = jax.profiler.StepTraceAnnotation(STEP, step_num=self._done)
        self._step.__enter__()

    def _close(self) -> None:
        assert self._step is not None
        self._step.__exit__(None, None, None)
        self._step, self._left = None, self._left - 1

    def _report(self) -> None:
        split = total(self._splits)
        live = sum(s.data.nbytes for x in jax.live_arrays() for s in x.addressable_shards)
        stats = jax.local_devices()[0].memory_stats() or {}
        memory = self._program.pop("memory")
        found = {
            "steps": split.steps,
            "wall_seconds": split.wall,
            "seconds_a_step_before_the_trace": self._untraced / _TIMED,
            "seconds": {name: _known(split, name) for name in PARTS},
            "waited_for_input_seconds": split.waited,
            "collectives_behind_compute_seconds": split.hidden if split.parts else "unknown",
            "devices": split.devices,
            **self._program,
            "memory": {
                "step": memory or "unknown",
                "live_array_bytes": live,
                "device_bytes_in_use": stats.get("bytes_in_use", "unknown"),
                "device_peak_bytes": stats.get("peak_bytes_in_use", "unknown"),
            },
        }
        write_json(self._folder / "profile.json", found)
        for line in lines(found):
            self._say(line)
        self._say(f"trace: {self._folder / 'profile'} (its .trace.json.gz opens in Perfetto)")


def _known(split: Split, name: str) -> float | str:
    return "unknown" if split.parts is None else float(getattr(split.parts, name))


def _bytes_of(memory: Any) -> dict[str, int]:
    """Return the bytes of a compiled step on one device; aliased outputs lie in arguments."""
    kinds = ("argument", "output", "temp", "alias")
    return {kind: int(getattr(memory, f"{kind}_size_in_bytes")) for kind in kinds}


def lines(found: dict[str, Any]) -> list[str]:
    """Return what ``profile.json`` holds as a small table."""
    steps, wall = found["steps"], found["wall_seconds"]
    before = found["seconds_a_step_before_the_trace"]
    table = [
        f"profile: {steps} steps of {1e3 * wall / steps:.2f} ms ({1e3 * before:.2f} ms before the "
        "trace was on)"
    ]
    for name, seconds in found["seconds"].items():
        shown = "unknown"
        if not isinstance(seconds, str):
            shown = f"{1e3 * seconds / steps:10.2f} ms a step  {100 * seconds / wall:5.1f} %"
        table.append(f"  {name:<12}{shown}")
    waited = 1e3 * found["waited_for_input_seconds"] / steps
    table.append(f"  the loop waited {waited:.2f} ms a step for a batch, with devices idle or not")
    times, memory = found["compile"], found["memory"]
    made = ", ".join(f"{k} {times[k]:.2f} s" for k in ("trace", "lower", "compile"))
    table.append(f"program: {made} ({'from the cache' if times['cached'] else 'not cached'})")
    step = memory["step"]
    if not isinstance(step, str):
        step = ", ".join(f"{kind} {shown_bytes(size)}" for kind, size in step.items())
    table.append(f"memory: the step on a device: {step}")
    table.append(f"        arrays alive on this host: {shown_bytes(memory['live_array_bytes'])}")
    return table


def shown_bytes(size: float) -> str:
    """Return a size in the unit that suits it."""
    power = min(3, (int(max(size, 1)).bit_length() - 1) // 10)
    return f"{size / 2 ** (10 * power):,.4g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
