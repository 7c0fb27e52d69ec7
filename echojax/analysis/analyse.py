"""The analysis of a model while it scores a sample: its dt, and the attribution of its scores.

Compilation takes ten times as long as the computation, so there is one program for all of it, which
serves before and after training.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.analysis.attribution import (
    attribution,
    by_age,
    gate_directions,
    is_bidirectional,
    of_kind,
    own_items,
)
from echojax.analysis.dt import DtCounts, count_dt, effective_memory, mambas
from echojax.arrays import write_arrays
from echojax.data import Examples
from echojax.models import SequenceModel
from echojax.models.layers import SpectralFilter

SAMPLE = 128  # histories
# Gates of the gradients through the (forward, backward) Mambas: 1 lets them pass.
_WHOLE = (1.0, 1.0)
_DIRECTIONS = {"/forward": (1.0, 0.0), "/backward": (0.0, 1.0)}


class Analysis(NamedTuple):
    """The result of an analysis."""

    # The distribution of dt of each Mamba (``DtCounts.distribution``), by name ("0/forward", ...);
    # empty for models without Mamba.
    dt_Kx2: dict[str, np.ndarray]
    mean_dt_E: dict[str, np.ndarray]  # the mean dt of each channel of each Mamba, by name
    # Attributions of the target's score. "events" (B, L) is that to the item vector of each event.
    # Bidirectional models also have "events/forward" and "events/backward", for gradients that pass
    # through the forward or the backward Mambas only. (With several layers, paths through both are
    # in neither.) They have all three for "read" (B, max_len) too, the input of the first layer's
    # Mambas, after its filter, where padding can also have a share.
    attribution: dict[str, np.ndarray]


def analyse(model: SequenceModel, batch: dict[str, np.ndarray]) -> Analysis:
    """Analyse ``model`` while it scores the targets of ``batch``.

    The batch has ``item_ids`` (B, L), right padded with 0, ``lengths`` and ``targets`` (B,), and,
    for models that read gaps, ``gaps`` (B, L).
    """
    graphdef, params = nnx.split(model)
    found, counts = _observe(graphdef, params, batch, _WHOLE)
    found = dict(found)
    if is_bidirectional(model):
        for name, gates in _DIRECTIONS.items():
            gated, _ = _observe(graphdef, params, batch, gates)
            found |= {level + name: one for level, one in gated.items()}
    items = int(batch["lengths"].sum())
    return Analysis(
        {name: one.distribution() for name, one in counts.items()},
        {name: np.asarray(one.sum_E) / items for name, one in counts.items()},
        {name: np.asarray(one_BxL) for name, one_BxL in found.items()},
    )


@partial(jax.jit, static_argnums=0)
def _observe(
    graphdef: nnx.GraphDef, params: nnx.State, batch: Any, gates: tuple[float, float]
) -> tuple[dict[str, jax.Array], dict[str, DtCounts]]:
    model = nnx.merge(graphdef, params)
    event_BxLxD = model.item_embedding[batch["item_ids"]]
    offsets = {"events": jnp.zeros_like(event_BxLxD)}
    if is_bidirectional(model):
        rows, _, d_model = event_BxLxD.shape
        offsets["read"] = jnp.zeros((rows, model.max_len, d_model), event_BxLxD.dtype)

    def score(offsets: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        """Return the sum of the targets' scores, and the inputs and the dt of the Mambas."""
        model = nnx.merge(graphdef, params)
        target_BxD = model.output_embeddings()[batch["targets"]]
        items_BxL = own_items(model, batch["item_ids"], offsets["events"])
        read = gate_directions(model, gates, offsets["read"]) if "read" in offsets else []
        counts = count_dt(model, batch["lengths"])
        user_BxD = model.encode(items_BxL, batch["lengths"], gaps_BxL=batch.get("gaps"))
        return jnp.sum(user_BxD * target_BxD), (read, counts)

    gradients, (read, counts) = jax.grad(score, has_aux=True)(offsets)
    vectors = {"events": event_BxLxD, **({"read": read[0]} if read else {})}
    return {level: attribution(gradients[level], x) for level, x in vectors.items()}, counts


def write_analysis(
    path: Path, before: SequenceModel, after: SequenceModel, examples: Examples
) -> None:
    """Write the analysis of a model before and after training.

    The file holds arrays by name, ``.../before`` and ``.../after``, as far as the model has them:

    - ``filter/0``, of each layer with an FFT filter: its frequency response, complex
      (max_len // 2 + 1, D);
    - ``time_steps/0/forward``, for each Mamba: values of dt and their shares, (K, 2);
    - ``memory/0/forward``, for each Mamba: the number of events until a state decays to 1/e, (E, N)
      (``effective_memory``);
    - ``influence/events``, ``influence/events/forward``, ``influence/read/backward`` and so on:
      the attribution by age of the event, (L + 2,) (``Analysis`` and ``by_age``).

    A sample of the examples is scored. The file is written atomically.
    """
    batch = sample(examples)
    arrays = {
        f"{name}/{when}": value
        for when, model in (("before", before), ("after", after))
        for name, value in _arrays(model, batch).items()
    }
    write_arrays(path, arrays)


def sample(examples: Examples) -> dict[str, np.ndarray]:
    """Return up to ``SAMPLE`` examples, evenly spaced by number, as ``Examples.gather`` does."""
    size = min(SAMPLE, len(examples))
    return examples.gather(np.arange(size) * len(examples) // size)


def _arrays(model: SequenceModel, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = analyse(model, batch)
    filters = enumerate(of_kind(model, SpectralFilter))
    arrays = {f"filter/{i}": np.asarray(one.response()) for i, one in filters}
    for name, mamba in mambas(model):
        A_ExN = -np.exp(np.asarray(mamba.A_log_ExN[...]))
        arrays[f"time_steps/{name}"] = found.dt_Kx2[name]
        arrays[f"memory/{name}"] = effective_memory(found.mean_dt_E[name], A_ExN)
    for name, values_BxL in found.attribution.items():
        whole_BxL = found.attribution[name.split("/")[0]]
        arrays[f"influence/{name}"] = by_age(values_BxL, batch["lengths"], whole_BxL)
    return arrays
