"""What a compiled program exchanges between devices, read from its HLO text.

The text is the program as it runs: ``compiled.as_text()``, of one device. Collectives inside loops
count as often as the loop goes round, those in branches as the dearest branch.
"""

import re
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Instructions that only run others: their time is that of what they hold.
CONTAINERS = ("while", "conditional", "call")

# Its name, its type, which for a tuple has blanks in it, its opcode, and the rest.
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+\w*|c\d+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Instruction(NamedTuple):
    """One line: ``bytes`` of its result, ``rest`` after the bracket that opens the operands."""

    name: str
    opcode: str
    bytes: int
    rest: str


class Collective(NamedTuple):
    """What one collective instruction moves."""

    name: str
    kind: str  # one of ``COLLECTIVES``
    bytes: int  # of its operands, on each device
    group: int  # devices that exchange among each other
    times: int | None  # a run of the program executes it; ``None`` where a loop does not tell

    @property
    def wire_bytes(self) -> float:
        """Bytes that each device sends each time, by the ring algorithms."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "all-gather": self.group - 1}
        always = {"collective-permute": 1.0, "collective-broadcast": 1.0}
        return self.bytes * (factor | always).get(self.kind, share)


Program = dict[str, list[Instruction]]


def computations(text: str) -> tuple[Program, str]:
    """Return the instructions of each computation of an HLO text, and the entry's name."""
    program: Program = {}
    entry = now = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            now = head[2]
            program[now] = []
            entry = now if head[1] else entry
        elif now and (found := _INSTRUCTION.match(line)):
            name, shape, opcode, rest = found.groups()
            program[now].append(Instruction(name, opcode, _bytes(shape), rest))
    return program, entry


def collectives(text: str, devices: int) -> list[Collective]:
    """Return every collective of a program that runs on so many devices."""
    program, entry = computations(text)
    sizes = {i.name: i.bytes for instructions in program.values() for i in instructions}

    def inside(computation: str, times: int | None) -> Iterator[Collective]:
        for one in program.get(computation, []):
            if (kind := kind_of(one.opcode)) and not one.opcode.endswith("-done"):
                operands = re.findall(r"%([\w.\-]+)", _bracket(one.rest))
                moved = sum(sizes[name] for name in operands)
                yield Collective(one.name, kind, moved, _group(one, devices), times)
            if one.opcode == "conditional":
                yield from max((list(inside(c, times)) for c in _branches(one)), key=_total)
            elif one.opcode in ("while", "call", "fusion", "async-start"):
                trips = _trips(one) if one.opcode == "while" else 1
                again = None if times is None or trips is None else times * trips
                for called in _CALLED.findall(one.rest):
                    yield from inside(called, again)

    return list(inside(entry, 1))


def kind_of(opcode: str) -> str | None:
    """Return which collective an opcode is (also its asynchronous halves); ``None`` if none."""
    name = opcode.removesuffix("-start").removesuffix("-done")
    return name if name in COLLECTIVES else None


def _total(found: list[Collective]) -> float:
    return sum(c.wire_bytes * (c.times or 1) for c in found)


def _trips(loop: Instruction) -> int | None:
    found = _TRIPS.search(loop.rest)
    return int(found[1]) if found else None


def _branches(one: Instruction) -> list[str]:
    several = _BRANCHES.search(one.rest)
    if several:
        return [name.strip().lstrip("%") for name in several[1].split(",")]
    return _CALLED.findall(one.rest)


def _group(one: Instruction, devices: int) -> int:
    """Return how many devices are in a group: ``{{0,1},{2,3}}``, ``[2,2]<=[4]`` or all."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", one.rest):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", one.rest):
        return len(found[1].split(","))
    return devices


def _bracket(text: str) -> str:
    """Return what stands before the bracket that closes one opened just before ``text``."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:place]
    return text


def _bytes(shape: str) -> int:
    """Return the bytes of an array or of all arrays of a tuple."""
    return sum(
        -(-_bits(kind) * prod(int(n) for n in sizes.split(",") if n) // 8)
        for kind, sizes in _ARRAY.findall(shape)
    )


def _bits(kind: str) -> int:
    found = re.search(r"\d+", kind)
    return int(found[0]) if found else 8  # pred
