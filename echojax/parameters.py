"""Facts about a parameter, as metadata of its ``nnx.Param``, and how they are read.

    per_item         it has one row an item, and is spread over the devices with the item table
    keep_float32     precision matters: it is not cast with the activations
    no_weight_decay  weight decay is not for it, though it has two axes
    window           the length of the window whose frequencies its rows are

Anything with the structure of the parameters, as gradients and an optimiser's state, has
``nnx.Param`` too, with the same metadata.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx


def map_with_facts(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Return ``f(facts, leaf, *leaves of others)`` for each leaf, in the structure of ``tree``.

    Facts are the metadata of the parameter that the leaf belongs to, ``{}`` if there is none.
    """

    def each(node: Any, *more: Any) -> Any:
        facts = node.get_metadata() if is_parameter(node) else {}
        return jax.tree.map(partial(f, facts), node, *more)

    return jax.tree.map(each, tree, *others, is_leaf=is_parameter)


def is_per_item(facts: dict[str, Any]) -> bool:
    """Return whether a parameter with these facts has one row an item."""
    return bool(facts.get("per_item", False))


def names_of(params: Any) -> dict[str, Any]:
    """Return the parameters by dotted name, such as ``layers.0.norm.scale``, in their order."""
    found, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_parameter)
    return {jax.tree_util.keystr(path, simple=True, separator="."): node for path, node in found}


def is_parameter(node: Any) -> bool:
    """Return whether a node of a tree is a parameter, and not what it is a part of."""
    return isinstance(node, nnx.Variable)
