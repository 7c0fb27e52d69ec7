"""``--init-from RUN``: models that begin with the weights of another run."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.config import MODEL_SIZES, Config, flag
from echojax.errors import UserError
from echojax.hosts import on_main_process
from echojax.models import HEURISTICS, build_model
from echojax.models.projection import PROJECTION, Projection
from echojax.parameters import is_parameter, is_per_item, names_of
from echojax.training.checkpoints import load_checkpoint
from echojax.training.optimizer import make_optimizer
from echojax.training.run_folder import default_run_dir, read_items, read_own_config
from echojax.training.step import state_shapes


def check_initial_weights(config: Config) -> None:
    """Raise ``UserError`` if --init-from, --freeze or --seeds does not fit the model."""
    if config.model in HEURISTICS:
        for name in ("init_from", "freeze", "item_vectors", "seeds"):
            if getattr(config, name) not in (None, 1):  # by default, or one seed
                raise UserError(
                    f"{flag(name)} has no meaning for --model {config.model}; leave it out"
                )
        return
    if config.freeze is not None:
        # Names are alike for vectors of any size.
        replace = config.item_vectors_use == "replace"
        projection = None if config.item_vectors is None else Projection(1, replace)
        state_shapes(lambda: build_model(config, 2), make_optimizer(config), projection)
    started = (Path(config.run_dir or default_run_dir(config)) / "config.json").exists
    if config.init_from is None or (config.resume and on_main_process(started)):
        return
    other = read_own_config(Path(config.init_from))
    # Sizes are whole; rates shape no parameter.
    sizes = [name for name in sorted(MODEL_SIZES) if isinstance(getattr(config, name), int)]
    for name in ("model", *sizes):
        ours, theirs = getattr(config, name), getattr(other, name)
        if ours != theirs:
            raise UserError(
                f"--init-from {config.init_from} was trained with {flag(name)} {theirs}, not "
                f"{ours}; make them the same, or name another run"
            )


def take_weights(
    params: Sequence[nnx.State], config: Config, item_ids_V: np.ndarray
) -> tuple[list[nnx.State], str]:
    """Return parameters with the weights of the best step of ``config.init_from``, and say which.

    ``params`` are each seed's initial parameters, ``item_ids_V`` the ids of the items that have
    parameters; number 0 is padding. Rows of items are matched by item id. Rows of other items keep
    their initial values, and so do parameters that the other model does not have in that shape, or
    has for a window of another length.
    """
    folder = Path(str(config.init_from))
    their_ids, _ = read_items(folder)
    own, other = names_of(params[0]), read_own_config(folder)
    # Without vectors of its own, the model takes what theirs come to.
    best = load_checkpoint(folder, other, len(their_ids), as_trained=PROJECTION in own)
    sources = names_of(best.params)
    sizes = [one[PROJECTION].shape[0] for one in (sources, own) if PROJECTION in one]
    if len(set(sizes)) > 1:
        raise UserError(
            f"--init-from {folder} was trained with item vectors of {sizes[0]} numbers, not "
            f"{sizes[1]}; give it vectors of the same size, or name another run"
        )
    per_item = (one for one in sources.values() if is_per_item(one.get_metadata()))
    their_ids = their_ids[: next((one.shape[0] for one in per_item), None)]
    shared, ours_S, theirs_S = np.intersect1d(item_ids_V, their_ids, return_indices=True)

    def fits(name: str, own: nnx.Variable) -> bool:
        if name not in sources:
            return False
        source, axis = sources[name], int(is_per_item(own.get_metadata()))
        # A filter of 8 positions has as many frequencies as one of 9, but other ones.
        same_window = own.get_metadata().get("window") == source.get_metadata().get("window")
        return same_window and own.shape[axis:] == source.shape[axis:]

    def taken(name: str, own: nnx.Variable) -> nnx.Variable:
        if not fits(name, own):
            return own
        value, source = np.array(own[...]), np.asarray(sources[name][...])
        if is_per_item(own.get_metadata()):
            value[ours_S] = source[theirs_S]
        else:
            value[...] = source
        return own.replace(jnp.asarray(value))

    left = [name for name in own if not fits(name, own[name])]
    said = (
        f"initial weights: step {best.step} of {folder}, {len(shared) - 1:,} of "
        f"{len(item_ids_V) - 1:,} items, "
        + (f"without {', '.join(left)}" if left else "with all other parameters")
    )
    structure = jax.tree.structure(params[0], is_leaf=is_parameter)
    weights = [
        jax.tree.unflatten(structure, [taken(*item) for item in names_of(one).items()])
        for one in params
    ]
    return weights, said
