"""A look into a model while it scores a sample: time steps and influences, in one program.

Compiling costs ten times as much as running here, so there is one program for all of it, before
and after training.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.insight.influence import influence, own_items, part_branches
from echojax.insight.modules import has_two_branches
from echojax.insight.sample import Batch
from echojax.insight.time_steps import Counted, TimeSteps, count_time_steps, time_steps_of
from echojax.models import SequenceModel

# Which gradients pass: those through the (forward, backward) Mambas.
_WHOLE = (1.0, 1.0)
_BRANCHES = {"/forward": (1.0, 0.0), "/backward": (0.0, 1.0)}


class Seen(NamedTuple):
    """What a look into a model shows.

    Args:
        time_steps: of each Mamba by its name ("0/forward", ...); none of other models.
        influences: of each position on the score of the target. "events" (B, L): of each event's
            item vector. With two directions also "events/forward" and "events/backward", where
            all gradients pass through the forward or the backward Mambas alone (with more than
            one layer some paths take both in turn and are in neither), and all three for "read":
            of what the first layer's Mambas read, behind its filter, (B, max_len). There padding
            may have influence.
    """

    time_steps: dict[str, TimeSteps]
    influences: dict[str, np.ndarray]


def look(model: SequenceModel, batch: Batch) -> Seen:
    """Return what happens in ``model`` when it scores the targets of ``batch``.

    Args:
        model: any model.
        batch: ``item_ids`` (B, L), right padded with 0, ``lengths`` and ``targets`` (B,).
    """
    graphdef, params = nnx.split(model)
    influences, counted = _look(graphdef, params, batch, _WHOLE)
    found = dict(influences)
    if has_two_branches(model):
        for name, gates in _BRANCHES.items():
            parted, _ = _look(graphdef, params, batch, gates)
            found |= {level + name: one for level, one in parted.items()}
    items = int(batch["lengths"].sum())
    return Seen(
        {name: time_steps_of(one, items) for name, one in counted.items()},
        {name: np.asarray(one_BxL) for name, one_BxL in found.items()},
    )


@partial(jax.jit, static_argnums=0)
def _look(
    graphdef: nnx.GraphDef, params: nnx.State, batch: Any, gates: tuple[float, float]
) -> tuple[dict[str, jax.Array], dict[str, Counted]]:
    model = nnx.merge(graphdef, params)
    event_BxLxD = model.item_embedding[batch["item_ids"]]
    offsets = {"events": jnp.zeros_like(event_BxLxD)}
    if has_two_branches(model):
        rows, _, width = event_BxLxD.shape
        offsets["read"] = jnp.zeros((rows, model.max_len, width), event_BxLxD.dtype)
    score = partial(_score, graphdef, params, batch, gates)
    gradients, (read, counted) = jax.grad(score, has_aux=True)(offsets)
    vectors = {"events": event_BxLxD, **({"read": read[0]} if read else {})}
    return {level: influence(gradients[level], x) for level, x in vectors.items()}, counted


def _score(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    batch: Any,
    gates: tuple[float, float],
    offsets: dict[str, jax.Array],
) -> tuple[jax.Array, tuple[list[jax.Array], dict[str, Counted]]]:
    """Return the sum of the targets' scores; and what was read, and the time steps."""
    model = nnx.merge(graphdef, params)
    target_BxD = model.catalogue()[batch["targets"]]
    items_BxL = own_items(model, batch["item_ids"], offsets["events"])
    read = part_branches(model, gates, offsets["read"]) if "read" in offsets else []
    counted = count_time_steps(model, batch["lengths"])
    user_BxD = model.encode(items_BxL, batch["lengths"])
    return jnp.sum(user_BxD * target_BxD), (read, counted)
