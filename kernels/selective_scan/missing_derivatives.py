"""Clear errors for derivatives that an implementation lacks, naming those that have them.

JAX's own messages would speak of ``custom_vjp`` and of primitives inside a kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Tree = TypeVar("Tree")


def differentiable_once(
    name: str, forward: Callable[..., tuple[Any, Any]], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """Return ``scan(inputs, options)`` with hand-written gradients that cannot be differentiated.

    Args:
        name: the implementation, for the errors.
        forward: ``forward(inputs, options, keep=...)`` returns the results and, with ``keep``, what
            the gradient needs besides the inputs.
        backward: ``backward(inputs, kept, outer, options)`` returns the gradients of the inputs,
            where ``outer`` has those of the results.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def scan(inputs: Any, options: Any) -> Any:
        return forward(inputs, options, keep=False)[0]

    def forward_rule(inputs: Any, options: Any) -> tuple[Any, Any]:
        inputs = _first_derivatives_only(name, inputs)
        results, kept = forward(inputs, options, keep=True)
        return results, (inputs, kept)

    def backward_rule(options: Any, residuals: Any, outer: Any) -> tuple[Any]:
        outer = _first_derivatives_only(name, outer)
        return (backward(*residuals, outer, options),)

    scan.defvjp(forward_rule, backward_rule)
    return lambda inputs, options: scan(
        no_forward_mode(f"implementation {name!r}", inputs), options
    )


def no_forward_mode(
    name: str,
    arrays: Tree,
    instead: str = "these have them: 'chunked', 'associative', 'sequential'",
) -> Tree:
    """Return the arrays unchanged, so that forward-mode derivatives of them raise ``TypeError``.

    Reverse mode transposes tangents without evaluating them, and is allowed. The gradient itself
    is free of this mark, so forward mode over a gradient is allowed, too.

    Args:
        name: what has no forward-mode derivatives, for the error.
        arrays: a tree of arrays.
        instead: the end of the error, which says what to do.
    """
    message = f"{name} has no forward-mode derivatives (jvp, jacfwd); {instead}"
    return _of_floats(partial(_reverse_only_p.bind, message=message), arrays)


def _first_derivatives_only(name: str, arrays: Tree) -> Tree:
    """Return the arrays unchanged, so that derivatives of them raise ``TypeError``."""
    return _of_floats(partial(_constant, name), arrays)


def _of_floats(mark: Any, arrays: Tree) -> Tree:
    is_float = lambda x: jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda x: mark(x) if is_float(x) else x, arrays)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _constant(name: str, x: Array) -> Array:
    return x


@_constant.defjvp
def _no_derivative(name: str, *_: Any) -> NoReturn:
    raise TypeError(
        f"implementation {name!r} has first derivatives only; these have second ones: "
        "'tiled', 'chunked', 'associative', 'sequential'"
    )


def _no_tangent(*_: Any, message: str) -> NoReturn:
    raise TypeError(message)


# The identity, which JAX can map by ``vmap`` and compile. Its tangents go through another one,
# which JAX can transpose, but not evaluate, map or compile. (``vmap`` of reverse mode maps the
# first or transposes the second, and so never maps the second.)
_reverse_only_p, _tangent_p = Primitive("reverse_only"), Primitive("forward_mode")
for _identity_p in (_reverse_only_p, _tangent_p):
    _identity_p.def_abstract_eval(lambda x, message: x)
_reverse_only_p.def_impl(lambda x, message: x)
mlir.register_lowering(_reverse_only_p, lambda _, x, message: [x])
batching.defvectorized(_reverse_only_p)
ad.primitive_jvps[_reverse_only_p] = lambda primals, tangents, message: (
    primals[0],
    _tangent_p.bind(tangents[0], message=message),
)
_tangent_p.def_impl(_no_tangent)
mlir.register_lowering(_tangent_p, _no_tangent)
batching.primitive_batchers[_tangent_p] = _no_tangent
ad.deflinear2(_tangent_p, lambda cotangent, _, message: [cotangent])
