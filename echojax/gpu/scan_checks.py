"""Every scan that runs on this device, checked: the GPU kernels in all their forms in front."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from echojax.gpu.against_oracle import TOLERANCES, Arrays, check, draw, on_device
from echojax.gpu.record import Row, Task
from echojax.gpu.scan_cases import MAMBA, Case, kernel_cases, other_cases
from echojax.scan_comparison.settings import Shape
from selective_scan import bidirectional_scan, implementations, selective_scan

_BEFORE_JOINED = 12  # time may run out before the last checks


def scan_checks(*, rehearse: bool) -> Iterator[Task]:
    """Return the checks of the GPU kernels, then of all other scans that run here."""
    cases = [
        (f"pallas_gpu, {case}", partial(check_one, case, "pallas_gpu"))
        for case in kernel_cases(rehearse=rehearse)
    ]
    yield from cases[:_BEFORE_JOINED]
    yield from _joined_checks(rehearse=rehearse)
    yield from cases[_BEFORE_JOINED:]
    for name, reason in implementations().items():
        if reason is None and name not in ("pallas_gpu", "reference"):
            for case in other_cases(rehearse=rehearse):
                yield f"{name}, {case}", partial(check_one, case, name)


def _joined_checks(*, rehearse: bool) -> Iterator[Task]:
    """Both directions in one launch, mapped copies as sets of one launch, the same bits again."""
    shape = Shape(2, 9, 5, 3) if rehearse else Shape(4, 50, 128, 32)
    each = ("delta", "A", "B", "C")
    kinds = {"some": each} if rehearse else {"all": ("u", *each, *MAMBA), "no": (), "some": each}
    for dtype in ("float32",) if rehearse else TOLERANCES:
        case = Case(shape, (*MAMBA, "lengths"), dtype)
        for kind, own in kinds.items():
            title = f"pallas_gpu, both directions, {kind} parameters of their own, {case}"
            yield title, partial(check_both_directions, case, own)
        yield f"pallas_gpu, vmap, {case}", partial(check_vmap, case)
    case = Case(shape, MAMBA, reverse=True)
    yield f"pallas_gpu, the same bits again, {case}", partial(check_same_bits, case)


def check_one(case: Case, implementation: str) -> Row:
    """Check one scan."""

    def scan(arrays: Arrays) -> tuple[jax.Array, jax.Array]:
        y, last = run(arrays, case, implementation)
        return y[None], last[None]

    return check(scan, case, own=(), reverses=(case.reverse,))


def check_both_directions(case: Case, own: tuple[str, ...]) -> Row:
    """Check ``bidirectional_scan``; ``own`` are the arguments of which each direction has one."""

    def scan(arrays: Arrays) -> tuple[jax.Array, None]:
        in_order = [arrays[name] for name in ("u", "delta", "A", "B", "C", *MAMBA)]
        y = bidirectional_scan(
            *in_order, delta_softplus=True, lengths_B=arrays.get("lengths"),
            implementation="pallas_gpu",
        )  # fmt: skip
        return y, None

    return check(scan, case, own, reverses=(False, True))


def check_vmap(case: Case) -> Row:
    """Check three mapped copies with u and A of their own."""
    own = ("u", "A")

    def scan(arrays: Arrays) -> tuple[jax.Array, jax.Array]:
        axes = {name: 0 if name in own else None for name in arrays}
        return jax.vmap(lambda copy: run(copy, case, "pallas_gpu"), in_axes=(axes,))(arrays)

    return check(scan, case, own, reverses=(case.reverse,) * 3)


def check_same_bits(case: Case) -> Row:
    """Check that the kernels give the same bits when they run again."""
    arrays = on_device(draw(case), case.dtype)

    def both(arrays: Arrays) -> list[jax.Array]:
        results, pull_back = jax.vjp(lambda arrays: run(arrays, case, "pallas_gpu"), arrays)
        return jax.tree.leaves((results, pull_back(jax.tree.map(jnp.ones_like, results))))

    compiled = jax.jit(both)
    first, *others = ([np.asarray(x) for x in compiled(arrays)] for _ in range(3))
    if all(np.array_equal(x, y) for other in others for x, y in zip(first, other, strict=True)):
        return {"status": "passed"}
    return {"status": "failed", "reason": "the same arrays gave other bits"}


def run(arrays: Arrays, case: Case, implementation: str) -> tuple[jax.Array, jax.Array]:
    """Return y (B, L, E) and the last states (B, E, N) of one scan."""
    return selective_scan(  # type: ignore[return-value]
        *(arrays[name] for name in ("u", "delta", "A", "B", "C")),
        *(arrays.get(name) for name in MAMBA),
        delta_softplus=case.softplus, reverse=case.reverse, lengths_B=arrays.get("lengths"),
        initial_state_BxExN=arrays.get("initial_state"), return_last_state=True,
        implementation=implementation,
    )  # fmt: skip
