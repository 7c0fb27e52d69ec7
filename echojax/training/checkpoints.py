"""Checkpoints: the newest two and the best step of each, with checksums of what they hold."""

import dataclasses
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import has_magic
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils

from echojax import keep_root_handlers
from echojax.config import Config
from echojax.errors import UserError
from echojax.files import TemporaryFolder, read_json
from echojax.hosts import is_main_process, on_main_process
from echojax.models import build_model
from echojax.models.projection import complete, projection_of
from echojax.training.optimizer import make_optimizer
from echojax.training.run_folder import identity, kept_item_vectors
from echojax.training.step import TrainState, state_shapes
from selective_scan import implementations

log = logging.getLogger(__name__)

# Errors that a disk or a file system may not give the next time: the checkpoint is not damaged.
_REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENAMETOOLONG,
)


@contextmanager
def _no_tracebacks() -> Iterator[None]:
    """Keep the threads of orbax and tensorstore from printing errors that are raised here too."""
    hook, disabled = sys.unraisablehook, logging.root.manager.disable
    sys.unraisablehook = lambda error: None
    logging.disable(logging.CRITICAL)
    try:
        yield
    except Exception:
        time.sleep(0.2)  # writes of other arrays are still failing
        raise
    finally:
        sys.unraisablehook = hook
        logging.disable(disabled)


class Restored(NamedTuple):
    """A checkpoint that was read."""

    state: TrainState
    progress: dict[str, Any]  # what was saved with it
    lost: str = ""  # what is wrong with the step that was wanted first, if this is another one


class LoadedCheckpoint(NamedTuple):
    """The model of a run's best step, or of the step that replaces it."""

    graphdef: nnx.GraphDef
    params: nnx.State
    step: int  # the step of the parameters
    best_step: int  # the best step by validation; 0 before the first validation


class Checkpoints:
    """The checkpoints of one run.

    Orbax writes each into a temporary folder and renames it, so a killed run leaves a whole
    checkpoint or none. The checksum finds bytes that changed afterwards.

    The newest two are kept, and the best step that the progress of each names, so that the best
    step is there whichever of the two a run resumes from. Which step is best is read from the
    progress only: that outlives the process, and decides ties in one place.

    The arrays are saved whole, so any number of devices and hosts can resume from them. Only the
    first host reads and writes, and sends the others what it has read.

    ``run`` identifies the run, by JSON values by name. It is saved with each checkpoint and
    compared when one is read.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any] | None = None):
        self._folder, self._run = folder.absolute(), dict(run or {})
        self._best_steps: dict[int, int | None] = {}  # by step, as far as it is known
        self._manager: ocp.CheckpointManager | None = None
        if is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
            this_process = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="checkpoints"
            )
            options = ocp.CheckpointManagerOptions(
                enable_async_checkpointing=False,
                create=False,
                multiprocessing_options=this_process,
            )
            try:
                self._manager = ocp.CheckpointManager(self._plain_path(), options=options)
            except ValueError as error:  # orbax reads what it has noted with every checkpoint
                raise UserError(
                    f"the checkpoints in {folder} cannot be listed ({_reason(error)}); delete the "
                    "one whose _CHECKPOINT_METADATA is damaged, or restore them from a copy"
                ) from None

    def _plain_path(self) -> Path:
        """Return the folder's path, or a link to it where orbax cannot use the path.

        It looks for the parts of a checkpoint by ``glob`` below the whole path, and tensorstore
        knows no names but those in UTF-8.
        """
        name = str(self._folder)
        if not has_magic(name) and name == name.encode(errors="replace").decode():
            return self._folder
        self._folder_of_link = TemporaryFolder()
        link = Path(self._folder_of_link.path) / "checkpoints"
        link.symlink_to(self._folder)
        return link

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Write ``state`` and ``progress`` under the state's step.

        ``progress`` holds JSON values; its ``best_step`` names the checkpoint that is kept besides
        this one, 0 for none.
        """
        if self._manager is None:
            return
        if (path := self._folder / str(state.step)).exists():
            log.warning(f"no checkpoint of step {state.step} is written: {path} exists")
            return
        for newest in set(self._steps()[-1:]) - self._best_steps.keys():
            self._best_steps[newest] = (self._progress(newest) or {}).get("best_step")
        self._best_steps[int(state.step)] = progress["best_step"]
        arrays = _by_name(state)
        about = {"progress": progress, "run": self._run, "arrays": sorted(arrays)}
        meta = {**about, "about_sha256": _checksum_of_json(about), "sha256": _checksum(arrays)}
        try:
            with _no_tracebacks():
                self._manager.save(
                    int(state.step),
                    force=True,  # also before the number of a folder of the user's
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta)
                    ),
                )
                newest_two = self._steps()[-2:]
                kept = {*newest_two, *(self._best_steps.get(step) for step in newest_two)}
                for step in [step for step in self._steps() if step not in kept]:
                    self._manager.delete(step)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the checkpoint of step {state.step} cannot be written ({_reason(error)}); those "
                "before it are kept: free space, then go on with --resume"
            ) from None

    def restore(
        self, like: TrainState, first: int | None = None, *, newest: int | None = None
    ) -> Restored | None:
        """Return the newest undamaged checkpoint, or ``None`` if there is no checkpoint at all.

        ``like``, a state or what ``state_shapes`` returns, gives shapes and dtypes. The step
        ``first`` is tried before the others, and steps after ``newest`` are ignored.

        Raises:
            UserError: no checkpoint can be read, or one is of another run, of another version's
                model, or not readable for this user.
        """
        state = like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)

        def read() -> tuple[dict[str, Any], str] | None:
            nonlocal state
            if found := self._newest_whole(like, first, newest):
                state = found.state
            return found and (found.progress, found.lost)

        answer = on_main_process(read)
        return answer and Restored(multihost_utils.broadcast_one_to_all(state), *answer)

    def _newest_whole(
        self, like: TrainState, first: int | None, newest: int | None
    ) -> Restored | None:
        steps = [step for step in self._steps() if newest is None or step <= newest]
        if not steps:
            return None
        damaged: dict[int | None, str] = {}
        found: Restored | None = None
        for step in sorted(steps, key=lambda step: (step != first, -step)):
            try:
                found = self._read(step, like)
                break
            except UserError:  # whole, and not to be passed over
                raise
            except Exception as error:
                # Damage shows up as whatever exception the reader happens to meet.
                damaged[step] = f"damaged ({_reason(error)})"
        lost = "" if first in (None, *steps) else "missing"
        if found is not None:
            found = found._replace(lost=damaged.pop(first, lost))
        instead = "none is left" if found is None else f"using step {step}"
        for other, reason in damaged.items():
            log.info(f"checkpoint of step {other} is {reason}: {instead}")
        if found is None:
            raise UserError(
                f"no checkpoint in {self._folder} can be read; "
                "restore the folder from a copy, or train again with another --run-dir"
            )
        return found

    def newest_progress(self) -> dict[str, Any]:
        """Return the progress in the newest checkpoint whose progress is undamaged, else ``{}``."""
        return next(filter(None, map(self._progress, self._steps()[::-1])), {})

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, in order, on every host."""
        return on_main_process(self._steps)

    def drop_after(self, step: int) -> None:
        """Delete what a run resumed at ``step`` writes again: later and unfinished checkpoints."""
        if self._manager is not None:
            for newer in [found for found in self._steps() if found > step]:
                self._manager.delete(newer)
            for part in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(part)

    def close(self) -> None:
        """Release orbax's threads."""
        if self._manager is not None:
            self._manager.close()

    def _steps(self) -> list[int]:
        if self._manager is None:
            return []
        folder = self._folder
        return sorted(s for s in self._manager.all_steps() if _is_ours(folder / str(s)))

    def _progress(self, step: int) -> dict[str, Any] | None:
        """Return the progress in the checkpoint of ``step``; ``None`` if it is damaged."""
        try:
            with _no_tracebacks():
                return self._meta(step)["progress"]
        except Exception:  # whatever the reader happens to meet
            return None

    def _meta(self, step: int) -> dict[str, Any]:
        """Return what was saved next to the arrays; ``ValueError`` if it has been changed."""
        assert self._manager is not None
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta: dict[str, Any] = self._manager.restore(step, args=args)["meta"]
        if "about_sha256" in meta:
            known = meta["about_sha256"]
            about = {name: meta[name] for name in ("progress", "run", "arrays")}
        else:  # written before checkpoints named their run, or had a checksum of their progress
            known, about = meta.get("progress_sha256"), meta["progress"]
        if known is not None and known != _checksum_of_json(about):
            raise ValueError("its progress has another checksum")
        return meta

    @_no_tracebacks()
    def _read(self, step: int, like: TrainState) -> Restored:
        """Return a checkpoint; ``UserError`` if it is undamaged, but not of this run."""
        assert self._manager is not None
        where, names = f"the checkpoint in {self._folder / str(step)}", _by_name(like)
        try:
            meta = self._meta(step)
            for name, value in meta.get("run", {}).items():
                if name in self._run and value != self._run[name]:
                    raise UserError(
                        f"{where} is of another run: its {name} is {value}, not {self._run[name]}; "
                        "put this run's own checkpoints back"
                    )
            if odd := sorted(names.keys() ^ meta.get("arrays", names)):
                raise UserError(
                    f"{where} holds other arrays than this version's model has, such as {odd[0]}; "
                    "go on with the version that wrote it"
                )
            args = ocp.args.Composite(state=ocp.args.StandardRestore(names))
            arrays = self._manager.restore(step, args=args)["state"]
        except Exception as error:
            if refused := _refusal(error, self._folder / str(step)):
                raise UserError(
                    f"{where} cannot be read ({_reason(refused)}); fix that, or delete it to go on "
                    "from the one before it"
                ) from None
            raise
        if _checksum(arrays) != meta["sha256"]:
            raise ValueError("its checksum does not match")
        leaves = [arrays[name] for name in names]
        return Restored(jax.tree.unflatten(jax.tree.structure(like), leaves), meta["progress"])


@keep_root_handlers()
def load_checkpoint(
    folder: Path,
    config: Config,
    num_items: int,
    *,
    step: int | None = None,
    as_trained: bool = False,
) -> LoadedCheckpoint:
    """Read the checkpoint of a run's best step, or the newest undamaged one with a warning.

    ``config`` is resolved, and of one seed. If the caller gives the best ``step``, no other is
    read. With ``as_trained`` the projection of item vectors stays among the parameters; otherwise
    they are those of a model with a row for each item. If the scan of ``config`` cannot run here,
    the model has "auto".
    """
    if implementations().get(config.scan) is not None:  # trained on another device
        config = dataclasses.replace(config, scan="auto")
    missing = UserError(
        f"{folder} has no checkpoint yet; train until the first one is written"
        if step is None
        else f"{folder} has lost the checkpoint of its best step {step}"
    )
    if not (folder / "checkpoints").is_dir():
        raise missing
    vectors = None if config.item_vectors is None else kept_item_vectors(folder)
    rows = num_items if vectors is None else 1 + vectors.trained
    optimizer, projection = make_optimizer(config), projection_of(config, vectors)
    graphdef, like = state_shapes(lambda: build_model(config, rows), optimizer, projection)
    checkpoints = Checkpoints(folder / "checkpoints", identity(folder))
    try:
        best = step or _best_step(folder, checkpoints.newest_progress())
        found = checkpoints.restore(like, first=best or None)
    finally:
        checkpoints.close()
    if found is None or (step is not None and found.lost):
        raise missing
    served = int(found.state.step)
    if found.lost:
        log.warning(
            f"step {served} is served: the checkpoint of step {best}, the best, is {found.lost}"
        )
    elif not best:
        log.warning(f"step {served} is served: no validation has said yet which step is the best")
    params = found.state.params if as_trained else complete(found.state.params, vectors)
    return LoadedCheckpoint(graphdef, params, served, best)


def _best_step(folder: Path, progress: dict[str, Any]) -> int:
    """Return a run's best step, 0 if there is none yet.

    The newest checkpoint names it, or the results, if that is no longer the run's last one.
    """
    # No results yet, or damaged ones.
    with suppress(UserError, LookupError, TypeError, ValueError, OverflowError):
        train = read_json(folder / "results.json")["train"]
        if train["steps"] > progress.get("steps", 0):
            return int(train["best_step"])
    return int(progress.get("best_step", 0))


def _is_ours(path: Path) -> bool:
    """Return whether a folder is a checkpoint: for orbax, any is whose name is a number."""
    return any((path / name).exists() for name in ("_CHECKPOINT_METADATA", "meta", "state"))


def _reason(error: Exception) -> str:
    """Return what went wrong in a few words."""
    if code := _os_error(error):
        return os.strerror(code)
    return " ".join(str(error).split())[:200] or type(error).__name__


def _by_name(state: TrainState) -> dict[str, np.ndarray]:
    """Return the state's arrays by path, in the order of its leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }


def _refusal(error: Exception, folder: Path) -> Exception | None:
    """Return why files cannot be read for now, or by this user, which is not damage.

    To orbax, a file that may not be read sometimes looks as if it were missing.
    """
    if isinstance(error, MemoryError) or _os_error(error) in _REFUSED:
        return error
    found: list[OSError] = []
    for parent, _, names in os.walk(folder, onerror=found.append):
        for name in names:
            try:
                Path(parent, name).open("rb").close()
            except OSError as refused:
                found.append(refused)
    return next((refused for refused in found if refused.errno in _REFUSED), None)


def _os_error(error: Exception) -> int | None:
    """Return the operating system's number of an error, which tensorstore gives in its text."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else getattr(error, "errno", None)


def _checksum_of_json(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
