"""``--profile N``: a trace of N steps, where their time went, what the program cost to make."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from echojax.files import write_json
from echojax.training.profile_report import bytes_of, figures, lines
from echojax.training.trace import INPUT, STEP, Split, read_split, total

# Steps before the trace: the first ones fill caches and buffers, the others are timed.
_WARM, _TIMED = 2, 3


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
            self._program = {"compile": seconds, "memory": memory and bytes_of(memory)}

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
        found = figures(total(self._splits), self._untraced / _TIMED, self._program)
        write_json(self._folder / "profile.json", found)
        for line in lines(found):
            self._say(line)
        self._say(f"trace: {self._folder / 'profile'} (its .trace.json.gz opens in Perfetto)")
