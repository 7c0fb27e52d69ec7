"""A trained run as a folder that jax and numpy run without echojax and without its data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from echojax import __version__
from echojax.errors import UserError
from echojax.files import write_atomically, write_json
from echojax.interop.weights import weights
from echojax.serving.export_folder import (
    FORMAT,
    ITEMS,
    MANIFEST,
    PROGRAM,
    WEIGHTS,
    check_output,
    entry,
    replacing,
)
from echojax.serving.export_program import export_program
from echojax.serving.titles import check_places, run_titles
from echojax.serving.trained import read_trained

MOST = 100  # items an answer


def export_run(
    run_dir: str | Path,
    output: str | Path,
    *,
    k: int = MOST,
    data_dir: str | None = None,
    data_path: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write the best checkpoint of a run as a folder of its own; return its manifest.

    Args:
        run_dir: the run folder.
        output: the new folder, or an earlier export, which is replaced.
        k: how many items the program gives; no more than the catalogue has.
        data_dir: where the data lies now; read for titles alone, where the run has none.
        data_path: where the run's own file lies now.
        say: prints one line.

    Raises:
        UserError: no trained model in ``run_dir``, ``output`` holds something else or cannot be
            written, k is below 1, the data is not where it is said to be, or
            flatbuffers is not installed.
    """
    output = Path(output).resolve()
    check_output(output)
    if k < 1:
        raise UserError(f"-k must be at least 1, not {k}")
    check_places(data_dir, data_path)
    # The kernels for one accelerator do not run on another: a scan in plain JAX does on all.
    trained = read_trained(Path(run_dir), say, scan="fused")
    config, model, item_ids = trained.config, trained.model, trained.item_ids.tolist()
    titles = run_titles(trained.titles, config, data_dir=data_dir, data_path=data_path, say=say)
    program = export_program(model, min(k, len(item_ids) - 1))
    arrays: dict[str, Any] = weights(model)
    items: dict[str, Any] = {"item_ids": item_ids}
    if titles:
        items["titles"] = [titles.get(item, "") for item in item_ids]
    manifest = {
        "format": FORMAT,
        "version": 1,
        "model": config.model,
        "step": trained.step,
        "items": len(item_ids) - 1,
        "max_len": model.max_len,
        "parameters": sum(array.size for array in arrays.values()),
        **_about(program),
    }
    with replacing(output) as folder:
        write_atomically(folder / PROGRAM, _serialized(program))
        np.savez(folder / WEIGHTS, **arrays)
        write_json(folder / ITEMS, items)
        manifest["files"] = {name: entry(folder / name) for name in (PROGRAM, WEIGHTS, ITEMS)}
        write_json(folder / MANIFEST, manifest)
    return manifest


def _about(program: export.Exported) -> dict[str, Any]:
    """Return what a manifest says of the program."""
    *_, item_ids, lengths, seen = (aval.str_short() for aval in program.in_avals)
    scores, numbers = program.out_avals
    return {
        "k": scores.shape[1],
        "arguments": {
            "weights": WEIGHTS, "item_ids": item_ids, "lengths": lengths, "seen": seen,
        },
        "results": {"scores": scores.str_short(), "item_numbers": numbers.str_short()},
        "platforms": program.platforms,
        "calling_convention": program.calling_convention_version,
        "jax": jax.__version__,
        "echojax": __version__,
    }  # fmt: skip


def _serialized(program: export.Exported) -> bytes:
    try:
        return bytes(program.serialize())
    except ImportError:
        raise UserError(
            "jax.export writes its files by flatbuffers, which is not installed; "
            "pip install flatbuffers"
        ) from None
