"""The scans that a PyTorch user would run, where PyTorch is installed."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from echojax.errors import UserError
from echojax.scan_comparison.problem import Problem
from echojax.scan_comparison.programs import Pass, Program

LOOP, CUDA = "torch loop", "mamba_ssm"
_IN_TIME = ("u", "delta", "B", "C", "z", "y", "dy")  # (B, L, ...)


def torch_scans() -> list[str]:
    """Return the names of those that are installed; PyTorch itself is imported only to run.

    Raises:
        UserError: none is.
    """
    if find_spec("torch") is None:
        raise UserError(
            "--against torch needs PyTorch or mamba_ssm, and neither is installed; "
            "install torch, or leave --against out"
        )
    return [LOOP, *([CUDA] if find_spec("mamba_ssm") else [])]


def torch_program(name: str, problem: Problem, which: Pass) -> Program:
    """Return a PyTorch scan over the same inputs, on the GPU where PyTorch has one.

    Each scan has its inputs in memory as it wants them, which costs it nothing when it runs; its
    results by name are views with the axes of ours.
    """
    torch: Any = import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scan, time_last = (_loop, False) if name == LOOP else (_cuda_scan(), True)

    def theirs(key: str, x: Any) -> Any:
        return x.transpose(1, 2) if time_last and key in _IN_TIME else x

    arrays = {
        key: theirs(key, _tensor(x, device)).contiguous() for key, x in problem.arguments.items()
    }
    dy = theirs("dy", _tensor(problem.dy, device)).contiguous()

    def start() -> dict[str, Any]:
        with torch.set_grad_enabled(which != "forward"):
            leaves = {
                key: x.detach().requires_grad_(which != "forward") for key, x in arrays.items()
            }
            results = {"y": scan(**leaves)}
            if which != "forward":
                gradients = torch.autograd.grad(results["y"], list(leaves.values()), dy)
                results |= dict(zip(leaves, gradients, strict=True))
        return {key: theirs(key, x.detach()) for key, x in results.items()}

    def wait(results: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return Program(start, wait, None, {}, _expected_bytes(name, problem, which), _as_array)


def _expected_bytes(name: str, problem: Problem, which: Pass) -> int:
    """Return about how much memory a scan needs, beside its arguments, as far as is known."""
    # The loop makes the decays and the inputs of all states; autograd keeps them and the states.
    states = {"forward": 3, "forward+backward": 8}[which] if name == LOOP else 0
    return 4 * states * problem.shape.elements


def _as_array(x: Any) -> Any:
    """Return a tensor as a NumPy array, float32."""
    return x.float().cpu().numpy()


def _tensor(x: Any, device: str) -> Any:
    torch: Any = import_module("torch")
    return torch.from_dlpack(x).clone().to(device)


def _loop(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, delta_bias: Any) -> Any:
    """Return y of the plain scan: all decays at once, then one step after the other."""
    torch: Any = import_module("torch")
    functional = torch.nn.functional
    t = functional.softplus(delta.float() + delta_bias)
    decay = torch.exp(t[..., None] * A)
    enter = (t * u.float())[..., None] * B.float()[:, :, None]
    h = torch.zeros_like(decay[:, 0])
    read = []
    for position in range(u.shape[1]):
        h = decay[:, position] * h + enter[:, position]
        read.append(torch.einsum("ben,bn->be", h, C[:, position].float()))
    y = torch.stack(read, dim=1) + D * u.float()
    return (y * functional.silu(z.float())).to(u.dtype)


def _cuda_scan() -> Callable[..., Any]:
    """Return the CUDA scan of mamba_ssm, which wants time last."""
    interface: Any = import_module("mamba_ssm.ops.selective_scan_interface")
    return partial(interface.selective_scan_fn, delta_softplus=True)
