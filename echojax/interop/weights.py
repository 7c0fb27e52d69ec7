"""A model's parameters by name, and back into a model of the same sizes."""

from collections.abc import Mapping
from difflib import get_close_matches

import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.errors import UserError
from echojax.parameters import names_of


def weights(model: nnx.Module) -> dict[str, np.ndarray]:
    """Return the model's parameters by dotted name, such as ``layers.0.norm.scale``.

    Raises:
        UserError: ``model`` is not a model.
    """
    if not isinstance(model, nnx.Module):
        raise UserError(f"a model is wanted, not {model!r:.80}")
    params = names_of(nnx.state(model, nnx.Param))
    return {name: np.asarray(param[...]) for name, param in params.items()}


def load_weights(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Set all parameters of the model, in place; after an error it is as it was before.

    Args:
        model: A model of the sizes of the arrays.
        arrays: Arrays by the names of ``weights``. Floating-point numbers of any precision are cast
            to the dtype of the parameter.

    Raises:
        UserError: An array is missing, unknown, of another shape, or not of floating-point numbers.
    """
    state = nnx.state(model, nnx.Param)
    params = names_of(state)
    _check_names(list(params), list(arrays))
    for name, param in params.items():
        array = arrays[name]
        if np.shape(array) != param.shape:
            raise UserError(
                f"{name} has shape {np.shape(array)}, the model's {param.shape}; "
                "build the model with the sizes that the weights were trained with"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"{name} is {array.dtype}; give floating-point numbers")
    for name, param in params.items():
        param.set_value(jnp.asarray(arrays[name], param.dtype))
    nnx.update(model, state)


def _check_names(expected: list[str], given: list[str]) -> None:
    missing = sorted(set(expected) - set(given))
    unknown = sorted(set(given) - set(expected))
    if missing:
        near = get_close_matches(missing[0], unknown, n=1)
        hint = f" (is it {near[0]!r}?)" if near else ""
        raise UserError(f"weights lack {_some(missing)}{hint}; give all that the model has")
    if unknown:
        raise UserError(f"weights hold {_some(unknown)}, which the model has not; leave it out")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
