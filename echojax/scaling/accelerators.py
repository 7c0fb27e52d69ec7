"""What the projection assumes of accelerators and their links: published figures, by source."""

from typing import NamedTuple


class Accelerator(NamedTuple):
    """Peaks of one device.

    Attributes:
        name: as people call it.
        flops: dense bfloat16 a second.
        memory: bytes a second.
        link: bytes a second that a device sends to its neighbours, in one direction.
        domain: devices that are linked so.
        network: bytes a second, in one direction, that each device has between domains.
        source: of these figures.
    """

    name: str
    flops: float
    memory: float
    link: float
    domain: int
    network: float
    source: str


ACCELERATORS = (
    Accelerator(
        "H100 SXM", 989e12, 3.35e12, 450e9, 8, 50e9,
        "NVIDIA H100 and DGX H100 datasheets: BF16 1,979 TFLOP/s with sparsity, half without; "
        "3.35 TB/s; NVLink 900 GB/s in both directions; one 400 Gb/s InfiniBand port a GPU",
    ),
    Accelerator(
        "TPU v5e", 197e12, 819e9, 200e9, 256, 3.125e9,
        "Google Cloud documentation, TPU v5e: 197 TFLOP/s; 819 GB/s; ICI 400 GB/s a chip in both "
        "directions; pods of 256; two 100 Gb/s network cards for 8 chips",
    ),
    Accelerator(
        "TPU v5p", 459e12, 2765e9, 600e9, 8960, 6.25e9,
        "Google Cloud documentation, TPU v5p: 459 TFLOP/s; 2,765 GB/s; ICI 1,200 GB/s a chip in "
        "both directions; pods of 8,960; 50 Gb/s of data centre network a chip",
    ),
)  # fmt: skip

# What programs get of these peaks, and what a message costs beside its bytes: assumed, no source.
FLOPS_SHARE, MEMORY_SHARE, LINK_SHARE = 0.4, 0.6, 0.7
LINK_LATENCY, NETWORK_LATENCY = 2e-6, 10e-6  # seconds a hop
