"""The optimiser that a configuration names."""

from typing import Any

import optax

from echojax.config import Config
from echojax.parameters import is_per_item, map_with_facts
from echojax.training.rowwise import clip_by_norm, scale_by_row_rms


def make_optimizer(config: Config, item_axis: str | None = None) -> optax.GradientTransformation:
    """Return Adam, as all the papers use it, with the schedule, decay and limit that are asked for.

    The limit is on the norm of the whole gradient, before Adam's own scaling. ``item_axis``: the
    mapped axis that the item table is spread over.
    """
    adam = _scaled(config, optax.scale_by_adam())
    if config.item_optimizer == "rowwise":
        kinds = {"item": _scaled(config, scale_by_row_rms()), "other": adam}
        adam = optax.partition(kinds, item_or_other)
    if config.clip_norm is None:
        return adam
    return optax.chain(clip_by_norm(config.clip_norm, item_axis), adam)


def _scaled(
    config: Config, direction: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Return steps in a direction, with decay, as long as the configuration says."""
    rate = optax.scale_by_learning_rate(learning_rate(config))
    if not config.weight_decay:
        return optax.chain(direction, rate)
    return optax.chain(direction, optax.add_decayed_weights(config.weight_decay, decayed), rate)


def item_or_other(params: Any) -> Any:
    """Say of each parameter whether it has rows of items."""
    return map_with_facts(lambda facts, _: "item" if is_per_item(facts) else "other", params)


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
    return map_with_facts(lambda facts, x: x.ndim >= 2 and not facts.get("no_weight_decay"), params)
