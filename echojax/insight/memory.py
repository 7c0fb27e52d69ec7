"""How many events a state remembers."""

import numpy as np

from echojax.insight.modules import mambas
from echojax.insight.time_steps import TimeSteps
from echojax.models import SequenceModel


def effective_memory(mean_step_E: np.ndarray, A_ExN: np.ndarray) -> np.ndarray:
    """Return the events until what a state holds has decayed to 1/e, (E, N).

    Between two events k and l a state decays by ``exp(A (t_{k+1} + ... + t_l))``. With the
    channel's mean step in place of each, that is 1/e after ``1 / (mean step x |A|)`` events. Below
    1 the state holds little more than the newest event.

    Args:
        mean_step_E: mean time step of each channel.
        A_ExN: negative decay rates.
    """
    return -1 / (mean_step_E[:, None] * A_ExN)


def memories(model: SequenceModel, steps: dict[str, TimeSteps]) -> dict[str, np.ndarray]:
    """Return the effective memory of each Mamba's states, (E, N), by its name.

    Args:
        model: any model.
        steps: its time steps, from ``look``.
    """
    return {
        name: effective_memory(steps[name].mean_E, -np.exp(np.asarray(mamba.A_log_ExN[...])))
        for name, mamba in mambas(model)
    }
