"""Where the time of traced steps went, from the trace's own events.

XLA names what it runs by the instruction of the compiled program, on a CPU as on an accelerator:
those that are collectives in the program's text are collectives in the trace. The trace is read
from the profiler's ``.xplane.pb``: its ``.trace.json.gz`` leaves out all events beyond a million,
which a few steps on a CPU exceed.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from echojax.hlo import CONTAINERS, computations, kind_of

# What the loop marks in the trace: a step, and in it the wait for a batch.
STEP, INPUT = "echojax step", "echojax input"


class Parts(NamedTuple):
    """Seconds of all traced steps, the mean over this host's devices; together the wall time.

    Attributes:
        compute: a device computes.
        collectives: it exchanges, or waits for others to, and does nothing else meanwhile.
        input: it is idle, and the loop waits for a batch.
        host: it is idle, for any other reason.
    """

    compute: float
    collectives: float
    input: float
    host: float


class Split(NamedTuple):
    """Where the time of traced steps went.

    Attributes:
        steps: how many.
        wall: their seconds.
        waited: of these, how long the loop waited for batches, devices idle or not.
        parts: ``None`` where the backend's trace has no events of the program.
        devices: of this host that the trace shows.
        hidden: seconds of collectives behind which a device computed something else.
    """

    steps: int
    wall: float
    waited: float
    parts: Parts | None
    devices: int
    hidden: float


class _Device(NamedTuple):
    """Spans of what one device ran: [start, end] in ns."""

    any: list[tuple[float, float]]
    collectives: list[tuple[float, float]]
    compute: list[tuple[float, float]]


def read_split(folder: Path, program: str) -> Split:
    """Return the split of the newest trace under ``folder``, of a program with this HLO text."""
    newest = max(
        folder.glob("plugins/profile/*/*.xplane.pb"), key=lambda path: path.stat().st_mtime
    )
    opcodes = {i.name: i.opcode for lines in computations(program)[0].values() for i in lines}
    marks: dict[str, list[tuple[float, float]]] = {STEP: [], INPUT: []}
    devices: dict[str, _Device] = defaultdict(lambda: _Device([], [], []))
    for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
        on_device = plane.name.startswith("/device:")
        for line in plane.lines:
            for event in line.events:
                if event.name in marks:
                    marks[event.name].append((event.start_ns, event.end_ns))
                elif on_device or event.name in opcodes:
                    device, name = _ran(event, plane.name, line.name)
                    if name in opcodes:
                        _add(devices[device], opcodes[name], (event.start_ns, event.end_ns))
    return split(marks[STEP], marks[INPUT], list(devices.values()))


def _ran(event: jax.profiler.ProfileEvent, plane: str, line: str) -> tuple[str, str]:
    """Return on which device an event is, and the instruction's name, if it is of one."""
    stats = dict(event.stats)
    name = stats.get("hlo_op") or (event.name if line == "XLA Ops" else "")
    return f"{plane} {stats.get('device_ordinal', '')}", name.partition(" = ")[0].lstrip("%")


def _add(device: _Device, opcode: str, span: tuple[float, float]) -> None:
    device.any.append(span)
    if kind_of(opcode):
        device.collectives.append(span)
    elif opcode not in CONTAINERS:
        device.compute.append(span)


def split(
    steps: list[tuple[float, float]], inputs: list[tuple[float, float]], devices: list[_Device]
) -> Split:
    """Share every moment of the steps (spans in ns) among the parts, device by device."""
    wall, waited = (sum(end - start for start, end in spans) / 1e9 for spans in (steps, inputs))
    shares = [_of_one_device(steps, inputs, device) for device in devices]
    if not shares:
        return Split(len(steps), wall, waited, None, 0, 0.0)
    *parts, hidden = np.mean(shares, axis=0).tolist()
    return Split(len(steps), wall, waited, Parts(*parts), len(devices), hidden)


def total(splits: Sequence[Split]) -> Split:
    """Return the split of several traces together."""
    known = [split.parts for split in splits if split.parts]
    return Split(
        steps=sum(split.steps for split in splits),
        wall=sum(split.wall for split in splits),
        waited=sum(split.waited for split in splits),
        parts=Parts(*map(sum, zip(*known, strict=True))) if len(known) == len(splits) else None,
        devices=splits[0].devices,
        hidden=sum(split.hidden for split in splits),
    )


def _of_one_device(
    steps: list[tuple[float, float]], inputs: list[tuple[float, float]], device: _Device
) -> list[float]:
    """Return the seconds of each of ``Parts``, and of hidden collectives, on one device."""
    edges_N = np.unique(np.concatenate([np.ravel(x) for x in (steps, inputs, *device)]))
    middles_N = (edges_N[1:] + edges_N[:-1]) / 2
    in_step, waiting, busy, exchanging, computing = (
        _covered(spans, middles_N) for spans in (steps, inputs, *device)
    )
    alone = exchanging & ~computing
    masks = (busy & ~alone, alone, ~busy & waiting, ~busy & ~waiting, exchanging & computing)
    seconds_N = np.diff(edges_N) / 1e9
    return [float(seconds_N[mask & in_step].sum()) for mask in masks]


def _covered(spans: list[tuple[float, float]], points_N: np.ndarray) -> np.ndarray:
    """Say of each point whether some span holds it."""
    starts_S, ends_S = np.sort(np.reshape(spans, (-1, 2)), axis=0).T
    return np.searchsorted(starts_S, points_N) > np.searchsorted(ends_S, points_N)
