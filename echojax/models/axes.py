"""A model of which each device computes a part: where its modules exchange something."""

from flax import nnx

from echojax.mesh import Axes
from echojax.models.base import SequenceModel


def with_axes(model: SequenceModel, axes: Axes) -> SequenceModel:
    """Return a model that computes this device's part inside a function mapped over ``axes``.

    ``model`` is one that was merged for the traced function at hand: it is changed.
    """
    model.item_axis = axes.items
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "time_axis"):
            module.time_axis = axes.time
    return model
