"""The fastest scan as measured, from one JSON file in this folder for each kind of device."""

import json
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from math import log, prod
from typing import Any

# The kind whose measurements stand for a platform's kinds of device that were not measured.
_OTHERS = {"cuda": "NVIDIA H200"}
_SLOWER = 1.1  # scans at most 1.1 times as slow as the fastest count as equal; memory decides


def fastest(platform: str, kind: str, size: tuple[int, ...], able: Collection[str]) -> str:
    """Return the best scan at the measured size nearest to this one.

    Among the scans of ``able`` that take at most a tenth longer than the fastest of them, with the
    backward pass, that is the one with the least memory. The distance of two sizes is measured by
    the ratio of their lengths and that of their state elements per position.

    Args:
        platform: JAX's name of the platform, such as "cuda".
        kind: JAX's name of the kind of device. If there is no file for it, the H200's is taken for
            "cuda", and the CPU's elsewhere.
        size: B, L, E, N.
        able: names of the scans to choose from.
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
