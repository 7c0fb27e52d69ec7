"""``insight.npz``: what a model was like before and after training, for the report."""

from pathlib import Path

import numpy as np

from echojax.arrays import write_arrays
from echojax.data import Examples
from echojax.insight.influence import by_age
from echojax.insight.look import look
from echojax.insight.memory import memories
from echojax.insight.modules import modules
from echojax.insight.sample import Batch, sample
from echojax.models import SequenceModel
from echojax.models.layers import SpectralFilter


def write_insight(
    path: Path, before: SequenceModel, after: SequenceModel, examples: Examples
) -> None:
    """Write what a model is like before and after training; parts that it lacks are left out.

    The file holds arrays by name, ``.../before`` and ``.../after``:

    - ``filter/0``, of each layer with an FFT filter: its frequency response, complex
      (max_len // 2 + 1, D);
    - ``time_steps/0/forward``, of each Mamba: time steps and their shares, (K, 2)
      (``TimeSteps.distribution_Kx2``);
    - ``memory/0/forward``, of each Mamba: events until a state decays to 1/e, (E, N)
      (``effective_memory``);
    - ``influence/events``, ``influence/events/forward``, ``influence/read/backward`` and so on:
      share of the event that was k events ago in the whole influence on the target's score,
      (L + 2,), padding's at 0 and the first event's at the end (``Seen`` and ``by_age``).

    Args:
        path: the file, written whole or not at all.
        before: the model with its initial values.
        after: the same model, trained.
        examples: what time steps and influences are sampled from.
    """
    batch = sample(examples)
    arrays = {
        f"{name}/{when}": value
        for when, model in (("before", before), ("after", after))
        for name, value in _insight(model, batch).items()
    }
    write_arrays(path, arrays)


def _insight(model: SequenceModel, batch: Batch) -> dict[str, np.ndarray]:
    seen = look(model, batch)
    arrays = {
        f"filter/{i}": np.asarray(one.response())
        for i, one in enumerate(modules(model, SpectralFilter))
    }
    arrays |= {f"time_steps/{name}": one.distribution_Kx2 for name, one in seen.time_steps.items()}
    arrays |= {f"memory/{name}": one for name, one in memories(model, seen.time_steps).items()}
    for name, values_BxL in seen.influences.items():
        whole_BxL = seen.influences[name.split("/")[0]]
        arrays[f"influence/{name}"] = by_age(values_BxL, batch["lengths"], whole_BxL)
    return arrays
