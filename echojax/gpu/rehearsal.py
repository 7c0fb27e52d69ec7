"""A run without the hardware: "pallas_gpu" taken by name as ever, its kernels interpreted."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

import jax

from echojax.errors import UserError
from selective_scan import dispatch, gpu, implementations


@contextmanager
def kernels(*, rehearse: bool) -> Iterator[None]:
    """Make sure inside that "pallas_gpu" runs: on the GPU, or interpreted in a rehearsal.

    Raises:
        UserError: there is no GPU for it, and this is no rehearsal.
    """
    if not rehearse:
        if (reason := implementations()["pallas_gpu"]) is not None:
            raise UserError(f"pallas_gpu {reason}; --rehearse runs everything small, interpreted")
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is nearly all of it
    scan, both = (partial(f, interpret=True) for f in (gpu.scan, gpu.scan_both))
    with (
        mock.patch.object(gpu, "scan", scan),
        mock.patch.object(gpu, "scan_both", both),
        mock.patch.dict(dispatch._NEEDS, pallas_gpu=lambda: None),
    ):
        yield
