"""Count the GPU kernels' instructions, without a GPU: python benchmarks/gpu_counts.py.

XLA compiles the gradient of a gated scan for an H100 and dumps each kernel's machine code. This
needs `pip install --no-deps jax-cuda13-plugin jax-cuda13-pjrt`, of the same version as jax, and
`nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-nvdisasm`.
"""

import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

import harness
from echojax.errors import UserError
from harness import Row
from scan_problems import Shape
from selective_scan import selective_scan
from selective_scan.gpu.plans import plan_for

_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_SHAPES = [(2048, 50, 128, 32), (8, 16384, 2048, 16)]
# The units of instructions: the special-function unit (exponentials and reciprocals), shared
# memory, shuffles between threads, and barriers.
_UNITS = {"MUFU": "special", "LDS": "shared", "STS": "shared", "SHFL": "shuffle", "BAR": "barrier"}


@dataclass(frozen=True)
class Flags(harness.Flags):
    """Count the instructions and registers of the GPU kernels; write one JSON file."""


def main(flags: Flags) -> None:
    """Compile each case and count its instructions."""
    nvidia = find_spec("nvidia")
    places = [Path(p) / "cu13" for p in (nvidia and nvidia.submodule_search_locations) or []]
    root = next((p for p in places if (p / "bin" / "nvdisasm").exists()), None)
    if root is None or find_spec("jax_plugins.xla_cuda13") is None:
        raise UserError(
            "the CUDA plugin or compiler is not installed; the first lines of gpu_counts.py name "
            "the packages"
        )
    os.environ["PATH"] = f"{root / 'bin'}:{os.environ['PATH']}"
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    os.environ["XLA_FLAGS"] = f"--xla_gpu_cuda_data_dir={root}"
    jax.config.update("jax_enable_compilation_cache", False)
    cases: list[Row] = [
        Shape(*size)._asdict() | {"dtype": dtype}
        for size in _SHAPES
        for dtype in ("float32", "bfloat16")
    ]
    with harness.record_of("gpu_counts", flags) as record:
        for case in record.missing(cases):
            with record.row(case) as row, tempfile.TemporaryDirectory() as folder:
                os.environ |= {f"MOSAIC_GPU_DUMP_{x}": "1" for x in ("PTXAS", "SASS")}
                os.environ["MOSAIC_GPU_DUMP_TO"] = folder
                compile_gradient(case)
                for kernel in ("forward", "backward"):
                    row[kernel] = counted(Path(folder), kernel, plan_for(case["states"]).chunk)


def compile_gradient(case: Row) -> None:
    """Compile the gradient of a gated scan for an H100, at the sizes and dtype of a case."""
    topology = topologies.get_topology_desc(
        "", platform="cuda", target_config=_H100, topology="1x1x1"
    )
    B, L, E, N = (case[name] for name in Shape._fields)
    shapes = {"u": (B, L, E), "delta": (B, L, E), "A": (E, N), "B": (B, L, N), "C": (B, L, N)}
    shapes |= {"D": (E,), "z": (B, L, E), "delta_bias": (E,)}
    arrays = {
        name: jax.ShapeDtypeStruct(
            shape,
            case["dtype"] if len(shape) == 3 else "float32",
            sharding=SingleDeviceSharding(topology.devices[0]),
        )
        for name, shape in shapes.items()
    }

    def loss(arrays: dict[str, Any]) -> Any:
        y = selective_scan(**arrays, delta_softplus=True, implementation="pallas_gpu")
        return jnp.sum(y.astype(jnp.float32) ** 2)

    traced = jax.jit(jax.grad(loss)).trace(arrays)
    traced.lower(lowering_platforms=("cuda",)).compile()


def counted(folder: Path, kernel: str, turns: int) -> Row:
    """Return a kernel's registers, and a warp's instructions per position.

    These include the position's share of the instructions that are executed once per chunk. Each of
    the inner loops has so many turns: in the forward kernel they follow each other in a chunk, in
    the backward kernel they have the same positions.
    """
    (text,) = (path.read_text() for path in folder.glob(f"{kernel}_*.ptxas"))
    registers = re.search(r"Used (\d+) registers", text)
    assert registers is not None
    (path,) = folder.glob(f"{kernel}_*.sass*")
    code, loops = program(path)
    within = lambda x, y: x is not y and y[0] <= x[0] and x[-1] <= y[-1]  # noqa: E731
    inner = [x for x in loops if not any(within(y, x) for y in loops)]
    # The loop over chunks, which also waits and copies.
    chunk = max((x for x in loops if all(within(y, x) for y in inner)), key=len)
    units: Counter[str] = Counter()
    for n in chunk:
        times = turns if any(n in x for x in inner) else 1
        units[_UNITS.get(code[n], "other")] += times
    positions = turns * (len(inner) if kernel == "forward" else 1)
    total = sum(units.values()) / positions
    each = {name: count / positions for name, count in sorted(units.items())}
    return {"registers": int(registers[1]), "instructions": total, "by_unit": each}


def program(path: Path) -> tuple[list[str], list[range]]:
    """Return the opcodes of an assembly listing, and its loops as ranges of their indices."""
    labels: dict[str, int] = {}
    code: list[str] = []
    jumps: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9]+)(.*)", line):
            if target := re.search(r"`\((\.L_x_\d+)\)", found[2]):
                jumps.append((len(code), target[1]))
            code.append(found[1])
    loops = [range(labels[label], at + 1) for at, label in jumps]
    return code, [loop for loop in loops if len(loop) > 10]  # shorter loops wait for a copy


if __name__ == "__main__":
    harness.run(Flags, main)
