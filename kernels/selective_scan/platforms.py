"""Decisions that wait until a program is lowered for a platform, rather than until it is traced.

``jax.lax.platform_dependent`` traces all of its branches. ``lowered_later`` takes the place of a
branch for another platform, through derivatives and ``vmap``, and traces it only when it is
lowered. So a program for one platform neither imports nor traces the kernels of the others, and
does not fail because they lack a derivative.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Tree = TypeVar("Tree")
Call = Callable[..., Sequence[Array]]


def only_for(platform: str, refusal: str, x: Array) -> Array:
    """Return x, unchanged.

    Raises:
        ValueError: ``refusal``, when a program that reads x is lowered for another platform.
    """
    return _guard_p.bind(x, platform=platform, refusal=refusal)


def _guard_lowering(here: str, _: Any, x: Any, *, platform: str, refusal: str) -> list[Any]:
    if here != platform:
        raise ValueError(refusal)
    return [x]


_guard_p = Primitive("only_for")
_guard_p.def_abstract_eval(lambda x, **_: x)
_guard_p.def_impl(lambda x, **params: jax.jit(partial(_guard_p.bind, **params))(x))
mlir.register_lowering(_guard_p, partial(_guard_lowering, "another"))
for _platform in ("cuda", "tpu"):
    mlir.register_lowering(_guard_p, partial(_guard_lowering, _platform), platform=_platform)
ad.deflinear2(_guard_p, lambda cotangent, _, **params: [_guard_p.bind(cotangent, **params)])
batching.defvectorized(_guard_p)


def lowered_later(
    platform: str | None, function: Callable[..., Tree], like: Any, *arrays: Any
) -> Tree:
    """Return ``function(*arrays)`` without tracing the function before it is lowered.

    The gradient keeps only the arrays as residuals, and runs the function once more.

    Args:
        platform: the only platform for which the function is lowered, even if the program is for
            several (Mosaic GPU takes only one); ``None`` stands for the program's.
        function: from trees of arrays to a tree of floating-point arrays.
        like: the shapes and dtypes of its results.
        arrays: its arguments.
    """
    leaves, tree = jax.tree.flatten(arrays)
    shapes, results = jax.tree.flatten(like)
    avals = tuple(ShapedArray(x.shape, x.dtype) for x in shapes)

    def call(*leaves: Array) -> list[Array]:
        return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))

    out = _later_p.bind(*leaves, call=call, avals=avals, platform=platform)
    found: Tree = jax.tree.unflatten(results, out)
    return found


def _new_primitive(name: str) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_abstract_eval(lambda *_, avals, **__: [_on_mesh(aval) for aval in avals])
    primitive.def_impl(lambda *args, call, **_: jax.jit(call)(*args))
    mlir.register_lowering(primitive, _lowering)
    ad.primitive_jvps[primitive] = partial(_jvp, primitive)
    return primitive


def _on_mesh(aval: ShapedArray) -> ShapedArray:
    """Return the shape and dtype on the mesh of the context, as results of JAX's own have it."""
    mesh = jax.sharding.get_abstract_mesh()
    sharding = jax.NamedSharding(mesh, jax.P(*[None] * aval.ndim))
    return ShapedArray(aval.shape, aval.dtype, sharding=sharding)


_trace_and_lower = mlir.lower_fun(lambda *args, call: call(*args), multiple_results=True)


def _lowering(ctx: Any, *args: Any, call: Call, platform: str | None, **_: Any) -> Any:
    if platform is not None:
        ctx = ctx.replace(platforms=(platform,))
    return _trace_and_lower(ctx, *args, call=call)


def _jvp(primitive: Primitive, primals: Any, tangents: Any, **params: Any) -> tuple[Any, Any]:
    """Return the results and their tangents, as a linear function of the nonzero input tangents."""
    moved = tuple(i for i, x in enumerate(tangents) if not isinstance(x, ad.Zero))
    call = params["call"]

    def of_moved(primals: Sequence[Array], *values: Array) -> Sequence[Array]:
        at = dict(zip(moved, values, strict=True))
        return call(*(at.get(i, x) for i, x in enumerate(primals)))

    given = [tangents[i] for i in moved]
    shared = {"avals": params["avals"], "platform": params["platform"]}
    return primitive.bind(*primals, **params), _tangents(
        primals, given, moved=moved, of_moved=of_moved, **shared
    )


def _tangents(
    primals: Sequence[Array],
    given: Sequence[Array],
    *,
    moved: tuple[int, ...],
    of_moved: Call,
    **shared: Any,
) -> Sequence[Array]:
    def call(*args: Array) -> Sequence[Array]:
        primals, given = args[: -len(moved)], args[-len(moved) :]
        return jax.jvp(partial(of_moved, primals), tuple(primals[i] for i in moved), given)[1]

    return _tangent_p.bind(*primals, *given, call=call, moved=moved, of_moved=of_moved, **shared)


def _transpose(
    cotangents: Any,
    *args: Any,
    moved: tuple[int, ...],
    of_moved: Call,
    platform: str | None,
    **_: Any,
) -> list[Array | None]:
    primals, given = args[: -len(moved)], args[-len(moved) :]

    def pull(*args: Array) -> Sequence[Array]:
        primals, cotangents = args[: len(args) - outputs], args[len(args) - outputs :]
        _, back = jax.vjp(partial(of_moved, primals), *(primals[i] for i in moved))
        return back(list(cotangents))

    cotangents = [ad.instantiate_zeros(x) for x in cotangents]
    outputs = len(cotangents)
    avals = tuple(ShapedArray(primals[i].shape, primals[i].dtype) for i in moved)
    pulled = _later_p.bind(*primals, *cotangents, call=pull, avals=avals, platform=platform)
    wanted = [x if ad.is_undefined_primal(t) else None for t, x in zip(given, pulled, strict=True)]
    return [*(None for _ in primals), *wanted]


def _batch(
    args: Any, dims: Any, *, call: Call, avals: Any, platform: str | None
) -> tuple[Any, Any]:
    mapped = jax.vmap(call, in_axes=tuple(dims))
    avals = _stacked(avals, _mapped_size(args, dims))
    return _later_p.bind(*args, call=mapped, avals=avals, platform=platform), [0] * len(avals)


def _batch_tangents(
    args: Any,
    dims: Any,
    *,
    moved: tuple[int, ...],
    of_moved: Call,
    avals: Any,
    platform: str | None,
    **_: Any,
) -> tuple[Any, Any]:
    size = _mapped_size(args, dims)
    copies = [batching.bdim_at_front(x, d, size) for x, d in zip(args, dims, strict=True)]
    primals, given = copies[: -len(moved)], copies[-len(moved) :]
    shared = {"avals": _stacked(avals, size), "platform": platform}
    out = _tangents(primals, given, moved=moved, of_moved=jax.vmap(of_moved), **shared)
    return out, [0] * len(avals)


def _mapped_size(args: Any, dims: Any) -> int:
    return next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)


def _stacked(avals: Sequence[ShapedArray], size: int) -> tuple[ShapedArray, ...]:
    return tuple(ShapedArray((size, *x.shape), x.dtype) for x in avals)


_later_p = _new_primitive("lowered_later")
_tangent_p = _new_primitive("tangent_lowered_later")
ad.primitive_transposes[_tangent_p] = _transpose
batching.primitive_batchers[_later_p] = _batch
batching.primitive_batchers[_tangent_p] = _batch_tangents
