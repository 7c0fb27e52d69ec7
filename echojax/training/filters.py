"""What the FFT filters looked like before and after training, for the report."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from echojax.files import write_atomically
from echojax.models.base import SequenceModel


def write_filters(path: Path, before: SequenceModel, after: SequenceModel) -> None:
    """Write ``before_i`` and ``after_i``, complex (L // 2 + 1, D), for each layer with a filter."""
    arrays: dict[str, Any] = {
        f"{name}_{i}": np.asarray(layer.filter.response())
        for name, model in (("before", before), ("after", after))
        for i, layer in enumerate(getattr(model, "layers", ()))
        if getattr(layer, "filter", None) is not None
    }
    if arrays:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(path, buffer.getvalue())
