"""Checkpoints: the newest two and the best two, each with a checksum of what it holds."""

import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from echojax.errors import UserError
from echojax.hosts import first_host, on_first, tell
from echojax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run.

    Orbax writes each into a temporary folder and renames it, so a killed run leaves a whole
    checkpoint or none. The checksum finds bytes that changed afterwards.

    The arrays are saved whole, so it does not matter how many devices and hosts go on from them.
    The first host alone reads and writes, and tells the others what it has read.

    Args:
        folder: where they are.
        say: prints one line to the user.

    Raises:
        UserError: they cannot even be listed.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self._say = say
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(2),
                checkpoint_managers.BestN(
                    n=2,
                    get_metric_fn=lambda metrics: metrics["ndcg@10"],
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager: ocp.CheckpointManager | None = None
        if first_host():
            folder.mkdir(parents=True, exist_ok=True)
            alone = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="checkpoints"
            )
            options = ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                enable_async_checkpointing=False,
                create=False,
                multiprocessing_options=alone,
            )
            try:
                self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
            except ValueError as error:  # orbax reads what it has noted beside every checkpoint
                raise UserError(
                    f"the checkpoints in {folder} cannot be listed ({_reason(error)}); delete the "
                    "one whose _CHECKPOINT_METADATA is damaged, or restore them from a copy"
                ) from None

    def save(self, state: TrainState, progress: dict[str, Any], ndcg: float | None = None) -> None:
        """Write ``state`` and ``progress`` (JSON values) under the state's step.

        ``ndcg`` is the validation NDCG@10 where this step was validated: the best are kept.

        Raises:
            UserError: the disk is full, or refuses otherwise.
        """
        if self._manager is None:
            return
        arrays = _by_name(state)
        meta = {
            "progress": progress,
            "progress_sha256": _checksum_of_json(progress),
            "sha256": _checksum(arrays),
        }
        try:
            with _no_tracebacks():
                self._manager.save(
                    int(state.step),
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta)
                    ),
                    metrics=None if ndcg is None else {"ndcg@10": ndcg},
                )
        except (OSError, ValueError) as error:
            raise UserError(
                f"the checkpoint of step {state.step} cannot be written ({_reason(error)}); those "
                "before it are kept: free space, then go on with --resume"
            ) from None

    def restore(
        self, like: TrainState, first: int | None = None, *, newest: int | None = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Return the newest whole checkpoint, or ``None`` where there is no checkpoint at all.

        Args:
            like: a state, or what ``state_shapes`` returns: its shapes and dtypes are read.
            first: a step to try before the others (the best one).
            newest: leave later steps alone.

        Raises:
            UserError: there are checkpoints and none of them can be read.
        """
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        found: tuple[TrainState, dict[str, Any]] | None = None

        def read() -> dict[str, Any] | None:
            nonlocal found
            found = self._restore(like, first, newest)
            return found and found[1]

        progress = on_first(read)
        if progress is None:
            return None
        return tell(found[0] if found else like), progress

    def _restore(
        self, like: TrainState, first: int | None, newest: int | None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        assert self._manager is not None
        steps = sorted(self._manager.all_steps(), reverse=True)
        if newest is not None:
            steps = [step for step in steps if step <= newest]
        if not steps:
            return None
        if first in steps:
            steps.insert(0, first)
        for i, step in enumerate(steps):
            try:
                with _no_tracebacks():
                    return self._read(step, like)
            except Exception as error:
                # Damage shows up as whatever exception the reader happens to meet.
                reason = _reason(error)
                last = i + 1 == len(steps)
                instead = "none is left" if last else f"using step {steps[i + 1]}"
                self._say(f"checkpoint of step {step} is damaged ({reason}): {instead}")
        raise UserError(
            f"no checkpoint in {self._manager.directory} can be read; "
            "restore the folder from a copy, or train again with another --run-dir"
        )

    def drop_after(self, step: int) -> None:
        """Delete what a resumed run writes anew: damaged checkpoints newer than ``step``, parts."""
        if self._manager is not None:
            for newer in [s for s in self._manager.all_steps() if s > step]:
                self._manager.delete(newer)
            for part in Path(self._manager.directory).glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(part)

    def close(self) -> None:
        """Release orbax's threads."""
        if self._manager is not None:
            self._manager.close()

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        assert self._manager is not None
        names = _by_name(like)
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(names), meta=ocp.args.JsonRestore()
            ),
        )
        arrays, meta = found["state"], found["meta"]
        if _checksum(arrays) != meta["sha256"]:
            raise ValueError("its checksum does not match")
        # Checkpoints of version 0.1 have no checksum of their progress.
        known = meta.get("progress_sha256")
        if known is not None and known != _checksum_of_json(meta["progress"]):
            raise ValueError("its progress has another checksum")
        leaves = [arrays[name] for name in names]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), meta["progress"]


@contextmanager
def _no_tracebacks() -> Iterator[None]:
    """Keep orbax's and tensorstore's threads from printing what is raised here anyway."""
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


def _reason(error: Exception) -> str:
    """Return what went wrong in a few words."""
    # Tensorstore tells of the operating system's errors at the end of several lines.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split())[:200] or type(error).__name__


def _by_name(state: TrainState) -> dict[str, np.ndarray]:
    """Return the state's arrays by path, in the order of its leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }


def _checksum_of_json(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
