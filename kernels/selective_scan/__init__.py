"""The selective scan of Mamba in JAX: one function, several implementations.

    dt = softplus(delta + bias)
    h_l = exp(dt_l A) h_{l-1} + dt_l B_l u_l
    y_l = C_l . h_l + D u_l,  times silu(z_l) if given

This is the recurrence of equations 2 and 4 of Mamba (Gu and Dao, 2023, arXiv:2312.00752), except
that B is discretized as dt B (Euler) instead of by zero-order hold, as in the authors' code.

Dimension letters: B batch, L length, E channels, N states per channel.
"""

from selective_scan.api import (
    bidirectional_scan,
    selective_scan,
    selective_scan_readout,
    selective_scan_step,
)
from selective_scan.arguments import Recurrence
from selective_scan.dispatch import implementations, register
from selective_scan.prefixes import selective_scan_prefix_readouts
from selective_scan.reference import selective_scan_gradients, selective_scan_reference

__version__ = "0.1.0"
__all__ = [
    "Recurrence",
    "bidirectional_scan",
    "implementations",
    "register",
    "selective_scan",
    "selective_scan_gradients",
    "selective_scan_prefix_readouts",
    "selective_scan_readout",
    "selective_scan_reference",
    "selective_scan_step",
]
