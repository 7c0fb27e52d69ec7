"""The programs of selective scans that are timed, and the floor of their time."""

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from harness import Program, Skipped, compiled
from scan_problems import IN_TIME, ORDER, SECOND_ELEMENTS, Arrays, Problem, Shape
from selective_scan import (
    bidirectional_scan,
    gpu,
    implementations,
    selective_scan,
    selective_scan_step,
)
from selective_scan.arguments import ScanInputs
from selective_scan.elementwise import exp2

Pass = Literal["forward", "forward+backward", "second derivative", "token"]
PASSES: tuple[Pass, ...] = ("forward", "forward+backward")
SECOND: Pass = "second derivative"
TOKEN: Pass = "token"

TORCH_LOOP, MAMBA_SSM = "torch loop", "mamba_ssm"
# These are written as in public ports of Mamba to JAX, with arrays of all decays and states.
PLAIN = "plain lax.scan", "plain lax.associative_scan"
OTHERS = (TORCH_LOOP, MAMBA_SSM, *PLAIN)
# Both directions of a layer, by ``bidirectional_scan`` and by two calls of ``selective_scan``.
ONE_LAUNCH, TWO_LAUNCHES = "both directions", "two directions"
STEP = "selective_scan_step"


def passes(name: str, shape: Shape) -> tuple[Pass, ...]:
    """Return the passes that are measured for an implementation at a size.

    At a length of 1 only a step of ``selective_scan_step`` is measured, at other lengths anything
    else. Second derivatives are measured at small sizes only.
    """
    if shape.length == 1 or name == STEP:
        return (TOKEN,) if shape.length == 1 and name == STEP else ()
    second = shape.elements <= SECOND_ELEMENTS and name in (*PLAIN, *implementations())
    return (*PASSES, SECOND) if second else PASSES


def make_program(
    name: str, problem: Problem, which: Pass, option: dict[str, Any] | None = None
) -> tuple[Program, int]:
    """Return the program of an implementation, and the bytes that it needs, as far as is known.

    It returns "y" and, with the backward pass, the gradients by argument; the second derivative is
    the Hessian times the arguments. With an ``option`` of the GPU kernels, these run, whatever the
    name.

    Raises:
        Skipped: the implementation has no second derivatives.
    """
    if name in (TORCH_LOOP, MAMBA_SSM):
        # The loop computes the decays and inputs of all states first, and autograd keeps them.
        states = {"forward": 3, "forward+backward": 8}[which] if name == TORCH_LOOP else 0
        return _torch_program(name, problem, which), 4 * states * problem.shape.elements
    arguments, dy = problem.arguments, problem.dy
    if which == TOKEN:
        program = compiled(jax.jit(_token), lambda: (arguments,))
        return program, sum(program.memory.values())
    if option is not None:
        program = jax_program(partial(_kernels, option), arguments, dy, which)
        return program, sum(program.memory.values())
    if name in (ONE_LAUNCH, TWO_LAUNCHES):
        # As in a bidirectional layer, the directions share u and z, and nothing else.
        arguments = {k: x if k in ("u", "z") else jnp.stack([x, x]) for k, x in arguments.items()}
        dy = jnp.stack([dy, dy])
    program = jax_program(partial(run_scan, name), arguments, dy, which)
    # The compiler does not see that NumPy keeps all states in float64.
    unseen = 8 * problem.shape.elements if name == "reference" else 0
    return program, sum(program.memory.values()) + unseen


def run_scan(name: str, arguments: Arrays) -> jax.Array:
    """Return y of an implementation."""
    if name in PLAIN:
        return _plain(name, ScanInputs(**arguments))
    in_order = [arguments[key] for key in ORDER]
    if name == ONE_LAUNCH:
        return bidirectional_scan(*in_order, delta_softplus=True)
    if name == TWO_LAUNCHES:
        each = [
            [arguments[k] if k in ("u", "z") else arguments[k][d] for k in ORDER] for d in (0, 1)
        ]
        y = [selective_scan(*each[d], delta_softplus=True, reverse=bool(d)) for d in (0, 1)]
        return jnp.stack(y)
    return selective_scan(*in_order, delta_softplus=True, implementation=name)


def _plain(name: str, inputs: Any) -> jax.Array:
    """Return y as public ports of Mamba compute it, differentiated by JAX."""
    u, delta, A, B, C, D, z, delta_bias, *_ = inputs
    dt = jax.nn.softplus(delta.astype(jnp.float32) + delta_bias)
    decay_BxLxExN = jnp.exp(dt[..., None] * A)
    enter_BxLxExN = (dt * u)[..., None] * B[:, :, None]
    if name == PLAIN[0]:

        def visit(h: jax.Array, at: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            decay, enter, C_BxN = at
            h = decay * h + enter
            return h, jnp.einsum("ben,bn->be", h, C_BxN)

        in_time = [x.swapaxes(0, 1) for x in (decay_BxLxExN, enter_BxLxExN, C)]
        _, read = jax.lax.scan(visit, jnp.zeros_like(decay_BxLxExN[:, 0]), tuple(in_time))
        read = read.swapaxes(0, 1)
    else:
        join = lambda near, far: (near[0] * far[0], far[0] * near[1] + far[1])  # noqa: E731
        _, h = jax.lax.associative_scan(join, (decay_BxLxExN, enter_BxLxExN), axis=1)
        read = jnp.einsum("blen,bln->ble", h, C)
    return ((read + D * u) * jax.nn.silu(z)).astype(u.dtype)


def _token(arguments: Arrays) -> Arrays:
    one = {k: x[:, 0] if k in IN_TIME else x for k, x in arguments.items()}
    in_order = [one[key] for key in ORDER]
    y, last = selective_scan_step(arguments["initial_state"], *in_order, delta_softplus=True)
    return {"y": y[:, None], "last": last}


def _kernels(option: dict[str, Any], arguments: Arrays) -> jax.Array:
    inputs = ScanInputs(*(arguments[name] for name in ORDER))
    return gpu.scan(inputs, softplus=True, reverse=False, **option)[0]


def jax_program(
    scan: Callable[[Arrays], jax.Array], arguments: Arrays, dy: jax.Array, which: Pass
) -> Program:
    """Compile a pass of ``scan(arguments) -> y``; gradients are those of ``sum(y * dy)``."""

    def gradients(arguments: Arrays, dy: jax.Array) -> Arrays:
        return jax.vjp(scan, arguments)[1](dy)[0]

    def second(arguments: Arrays, dy: jax.Array) -> Arrays:
        # The Hessian is symmetric: it may be multiplied from either side.
        return jax.vjp(lambda x: gradients(x, dy), arguments)[1](arguments)[0]

    def both(arguments: Arrays, dy: jax.Array) -> Arrays:
        y, pull_back = jax.vjp(scan, arguments)
        return {"y": y, **pull_back(dy)[0]}

    if which == "forward":
        return compiled(jax.jit(lambda arguments: {"y": scan(arguments)}), lambda: (arguments,))
    try:
        function = jax.jit(second if which == SECOND else both)
        return compiled(function, lambda: (arguments, dy))
    except TypeError as refused:
        if "first derivatives only" in str(refused):
            raise Skipped(str(refused)) from None
        raise


def torch_scans() -> list[str]:
    """Return the names of other authors' scans that are installed, without importing them."""
    if find_spec("torch") is None:
        return []
    return [TORCH_LOOP, *([MAMBA_SSM] if find_spec("mamba_ssm") else [])]


def _torch_program(name: str, problem: Problem, which: Pass) -> Program:
    """Return the program of a PyTorch scan over the same inputs, on the GPU if PyTorch has one.

    The inputs are brought into the layout that the scan needs before it is timed. Its results, by
    name, are views with the axes of ours.
    """
    torch: Any = import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scan: Callable[..., Any] = _torch_loop
    if name == MAMBA_SSM:
        interface: Any = import_module("mamba_ssm.ops.selective_scan_interface")
        scan = partial(interface.selective_scan_fn, delta_softplus=True)

    def theirs(key: str, x: Any) -> Any:  # mamba_ssm has time as the last axis
        return x.transpose(1, 2) if name == MAMBA_SSM and key in IN_TIME else x

    def tensor(key: str, x: jax.Array) -> Any:
        return theirs(key, torch.from_dlpack(x).clone().to(device)).contiguous()

    arrays = {key: tensor(key, x) for key, x in problem.arguments.items()}
    dy, backward = tensor("dy", problem.dy), which != "forward"

    def start() -> dict[str, Any]:
        with torch.set_grad_enabled(backward):
            leaves = {key: x.detach().requires_grad_(backward) for key, x in arrays.items()}
            results = {"y": scan(**leaves)}
            if backward:
                gradients = torch.autograd.grad(results["y"], list(leaves.values()), dy)
                results |= dict(zip(leaves, gradients, strict=True))
        return {key: theirs(key, x.detach()) for key, x in results.items()}

    def wait(results: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return Program(start, wait=wait)


def _torch_loop(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, delta_bias: Any) -> Any:
    """Return y by a plain loop over positions, after all decays were computed at once."""
    torch: Any = import_module("torch")
    functional = torch.nn.functional
    dt = functional.softplus(delta.float() + delta_bias)
    decay = torch.exp(dt[..., None] * A)
    enter = (dt * u.float())[..., None] * B.float()[:, :, None]
    state = torch.zeros_like(decay[:, 0])
    read = []
    for position in range(u.shape[1]):
        state = decay[:, position] * state + enter[:, position]
        read.append(torch.einsum("ben,bn->be", state, C[:, position].float()))
    y = torch.stack(read, dim=1) + D * u.float()
    return (y * functional.silu(z.float())).to(u.dtype)


def as_array(x: Any) -> Any:
    """Return a result as an array; PyTorch's tensors become float32 arrays of NumPy."""
    return x if isinstance(x, jax.Array) else x.float().cpu().numpy()


class Roofline(NamedTuple):
    """The measured rates of a device: bytes read and written, and float32 exponentials, per second.

    A scan must read its inputs and write its outputs once, and compute one exponential for each
    state element (B * L * E * N). The backward pass needs two more: one to recompute the states,
    one for the decay of their gradients. A token also reads and writes the state, and reads A.
    """

    bytes_per_second: float
    exps_per_second: float

    def floor_seconds(self, shape: Shape, dtype: str, which: Pass) -> float | None:
        """Return the floor of a scan's time, ``None`` for second derivatives.

        It neglects D and bias, which are small.
        """
        B, L, E, N = shape
        if which == SECOND:
            return None
        values, exps, state = 4 * B * L * E + 2 * B * L * N, shape.elements, 0
        if which == TOKEN:
            state = 4 * (2 * B * E * N + E * N)
        elif which != "forward":
            values, exps = 11 * B * L * E + 6 * B * L * N, 3 * exps
        moved = values * jnp.dtype(dtype).itemsize + state
        return max(moved / self.bytes_per_second, exps / self.exps_per_second)


FORMULA = (
    "The floor is the larger of bytes / copy bandwidth and exponentials / rate, both as measured "
    "on this device. Forward it counts 4·B·L·E + 2·B·L·N values (u, delta, z, B and C read, y "
    "written) and B·L·E·N exponentials; with the backward pass 11·B·L·E + 6·B·L·N values and "
    "3·B·L·E·N exponentials. For a token it counts those of a forward pass over one position, and "
    "2·B·E·N + E·N values in float32, the state and A."
)
_EXPS = 64  # exponentials for each element that is read and written


def measure_roofline() -> Roofline:
    """Measure both rates, each by the best of a few runs of a program that fills the device.

    The copy updates an array larger than every cache in place, since new pages would cost time on a
    CPU. The exponentials are independent of each other. They are the faster ones of XLA's and those
    of the "tiled" scan, which are faster on a CPU.
    """
    cpu = jax.default_backend() == "cpu"
    copied = jnp.zeros((2**27 if cpu else 2**28,), jnp.float32)
    copied_bytes = 2 * copied.nbytes
    copy_seconds = _fastest(jax.jit(lambda x: x + 1, donate_argnums=0), copied)
    raised = jnp.linspace(0, 1, 2**20 if cpu else 2**26, dtype=jnp.float32)
    exp_seconds = min(_fastest(jax.jit(partial(_exps, exp)), raised) for exp in (jnp.exp, exp2))
    return Roofline(copied_bytes / copy_seconds, _EXPS * raised.size / exp_seconds)


def _exps(exponential: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    total = jnp.zeros_like(x)
    for place in range(_EXPS):
        total += exponential(x * -(1 + place / _EXPS))
    return total


def _fastest(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    """Return the seconds of the fastest run; each run takes the result of the one before."""
    seconds = []
    for repeat in range(8):
        began = time.perf_counter()
        x = jax.block_until_ready(function(x))
        if repeat:  # the first run compiles
            seconds.append(time.perf_counter() - began)
    return min(seconds)
