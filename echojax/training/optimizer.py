"""The optimiser that a configuration names."""

from typing import Any

import jax
import optax

from echojax.config import Config


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Return Adam, as all the papers use it, with the schedule, decay and limit that are asked for.

    The limit is on the norm of the whole gradient, before Adam's own scaling.
    """
    rate = learning_rate(config)
    if config.weight_decay:
        adam = optax.adamw(rate, weight_decay=config.weight_decay, mask=decayed)
    else:
        adam = optax.adam(rate)
    if config.clip_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)


def learning_rate(config: Config) -> optax.ScalarOrSchedule:
    """Return the step size: a constant, or what it is at each step (counted from 0)."""
    top, warmup, decay = config.learning_rate, config.warmup_steps, config.decay_steps
    if not warmup and decay is None:
        return top
    after = (
        optax.constant_schedule(top) if decay is None else optax.cosine_decay_schedule(top, decay)
    )
    if not warmup:
        return after
    # The first step already moves: step n of the warm-up has (n + 1) / warmup of the whole.
    rise = optax.linear_schedule(top / warmup, top, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def decayed(params: Any) -> Any:
    """Say which parameters shrink: matrices and tables; no bias, norm or Mamba's ``A_log``."""

    def shrinks(path: Any, x: jax.Array) -> bool:
        return x.ndim >= 2 and "A_log" not in jax.tree_util.keystr(path)

    return jax.tree_util.tree_map_with_path(shrinks, params)
