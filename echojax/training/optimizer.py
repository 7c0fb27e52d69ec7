"""The optimiser that a configuration names."""

import optax

from echojax.config import Config


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Return Adam, as all the papers use it."""
    return optax.adam(config.learning_rate)
