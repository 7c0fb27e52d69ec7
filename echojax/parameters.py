"""Facts about a parameter, as metadata of its ``nnx.Param``, and how they are read.

    per_item         it has one row an item, and is spread over the devices with the item table
    keep_float32     precision matters: it is not cast with the activations
    no_weight_decay  it is no weight that should shrink, though it has two axes

Whatever has the structure of the parameters, as gradients and an optimiser's state, holds
``nnx.Param`` too, with the same metadata.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx


def map_with_facts(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Return ``f(facts, leaf, *leaves of others)`` for each leaf, in the structure of ``tree``.

    Facts are the metadata of the parameter that the leaf belongs to, ``{}`` where it is of none.
    """

    def each(node: Any, *more: Any) -> Any:
        facts = node.get_metadata() if _is_parameter(node) else {}
        return jax.tree.map(partial(f, facts), node, *more)

    return jax.tree.map(each, tree, *others, is_leaf=_is_parameter)


def is_per_item(facts: dict[str, Any]) -> bool:
    """Return whether a parameter with these facts has one row an item."""
    return bool(facts.get("per_item", False))


def _is_parameter(node: Any) -> bool:
    return isinstance(node, nnx.Variable)
