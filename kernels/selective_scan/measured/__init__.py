"""Which scan was measured to be the fastest, by kind of device: one JSON file each, lying here."""

import json
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from math import log, prod
from typing import Any

# Kinds of device that were not measured go by one that was.
_OTHERS = {"cuda": "NVIDIA H200"}
_SLOWER = 1.1  # times the fastest: as good as that, so memory decides


def fastest(platform: str, kind: str, size: tuple[int, ...], able: Collection[str]) -> str:
    """Return the scan to take, by the times with the backward pass at the nearest measured size.

    Among those of ``able`` that take at most a tenth longer than the fastest it is the one with
    least memory. Sizes, B, L, E, N, are near whose lengths, and numbers of state elements at a
    position, differ by a small factor. A kind of device, as JAX names it, that has no file goes by
    the H200's on the platform "cuda", and by the CPU's elsewhere.
    """
    sizes = _sizes(kind) or _sizes(_OTHERS.get(platform, "cpu"))

    def distance(row: dict[str, Any]) -> float:
        (batch, length, *rest), (batch_here, length_here, *rest_here) = row["size"], size
        elements, elements_here = batch * prod(rest), batch_here * prod(rest_here)
        return abs(log(length / length_here)) + abs(log(elements / elements_here))

    scans = {k: v for k, v in min(sizes, key=distance)["scans"].items() if k in able}
    least = min(milliseconds for milliseconds, _ in scans.values())
    good = [name for name, (milliseconds, _) in scans.items() if milliseconds <= _SLOWER * least]
    return min(good, key=lambda name: scans[name][1])


@cache
def _sizes(kind: str) -> list[dict[str, Any]]:
    file = files(__name__) / f"{kind.lower().replace(' ', '-')}.json"
    return list(json.loads(file.read_text())["sizes"]) if file.is_file() else []
