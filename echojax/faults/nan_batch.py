"""Training with a batch that is not a number.

python -m echojax.faults.nan_batch STEP experiments/train.py FLAGS: the loss of batch STEP is NaN.
"""

import runpy
import sys
from typing import Any

import numpy as np

from echojax.data import Batches


def main() -> None:
    """Run a training script with the batch."""
    step, script = int(sys.argv[1]), sys.argv[2]
    whole = Batches.__getitem__

    def poisoned(batches: Batches, number: int) -> dict[str, Any]:
        batch = whole(batches, number)
        nan = np.full_like(batch["weights"], np.nan)
        return batch | {"weights": nan} if number == step else batch

    Batches.__getitem__ = poisoned  # type: ignore[method-assign]
    sys.argv = sys.argv[2:]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
