"""A trained run as a folder that jax and numpy run without echojax and without its data."""

import datetime
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from echojax import __version__
from echojax.errors import UserError
from echojax.evaluation.tiles import top_k
from echojax.files import check_output_folder, read_record, write_atomically, write_json
from echojax.given import given_number, given_path
from echojax.interop.weights import weights
from echojax.models import SequenceModel
from echojax.serving.trained import Trained, check_places, read_trained, run_titles

MOST = 100  # how many items the program recommends by default
PLATFORMS = ("cpu", "cuda", "tpu")
# A version of jax reads what versions of the six months before it have written.
PROMISED_DAYS = 180

_FORMAT = "echojax-export"
_MANIFEST = "manifest.json"
_PROGRAM = "program.jax_export"
_WEIGHTS = "weights.npz"
_ITEMS = "items.json"
_INPUTS = ("item_ids", "lengths", "seen")
_FILES = (_PROGRAM, _WEIGHTS, _ITEMS, _MANIFEST)
# Names that a folder may hold besides an export: what a killed command left, what a new disk has.
_NO_EXPORT = (".new.", "lost+found")


class _Manifest(TypedDict, total=False):
    """What a manifest is recognised by."""

    format: str


def export_run(
    run_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    k: int = MOST,
    data_dir: str | None = None,
    data_path: str | None = None,
) -> dict[str, Any]:
    """Export the best checkpoint of a run to a folder; return the manifest.

    Args:
        run_dir: the run folder.
        output: a new or empty folder, or an earlier export, which is replaced.
        k: how many items the program recommends, at most all.
        data_dir: the folder that holds the data now; it is read only for titles that the run lacks.
        data_path: where the file that the run was trained on is now.

    Raises:
        UserError: ``run_dir`` holds no trained model, ``output`` holds something else or cannot be
            written, k is below 1, the data is not where the arguments say, or flatbuffers is not
            installed.
    """
    output = given_path("the folder of the export", output).resolve()
    _check_output(output)
    k = given_number("-k", k)
    check_places(data_dir, data_path)
    # Kernels are written for one kind of accelerator; a scan in plain JAX runs on all of them.
    run = read_trained(given_path("the run folder", run_dir), scan="tiled")
    item_ids = run.item_ids.tolist()
    items: dict[str, Any] = {"item_ids": item_ids}
    if titles := run_titles(run.titles, run.config, data_dir=data_dir, data_path=data_path):
        items["titles"] = [titles.get(item, "") for item in item_ids]
    program = export_program(run.model, min(k, len(item_ids) - 1))
    arrays: dict[str, Any] = weights(run.model)
    manifest = _manifest(run, program, sum(array.size for array in arrays.values()))
    with _filling(output) as folder:
        try:
            write_atomically(folder / _PROGRAM, bytes(program.serialize()))
        except ImportError:
            raise UserError(
                "jax.export writes its files by flatbuffers, which is not installed; "
                "pip install flatbuffers"
            ) from None
        np.savez(folder / _WEIGHTS, **arrays)
        write_json(folder / _ITEMS, items)
        manifest["files"] = {
            name: _size_and_checksum(folder / name) for name in _FILES if name != _MANIFEST
        }
        write_json(folder / _MANIFEST, manifest)
    return manifest


def _manifest(run: Trained, program: export.Exported, parameters: int) -> dict[str, Any]:
    """Return what the manifest says of a run and of its program."""
    names = [*_INPUTS, *["gaps"] * run.model.time_gaps]
    inputs = [aval.str_short() for aval in program.in_avals[-len(names) :]]
    scores, numbers = program.out_avals
    today = datetime.datetime.now(datetime.UTC).date()
    return {
        "format": _FORMAT,
        "version": 1,
        "model": run.config.model,
        "step": run.step,
        "best_step": run.best_step,
        "items": len(run.item_ids) - 1,
        "max_len": run.model.max_len,
        "parameters": parameters,
        "k": scores.shape[1],
        "arguments": {"weights": _WEIGHTS, **dict(zip(names, inputs, strict=True))},
        "results": {"scores": scores.str_short(), "item_numbers": numbers.str_short()},
        "platforms": program.platforms,
        "calling_convention": program.calling_convention_version,
        "jax": jax.__version__,
        **({} if run.gap_unit is None else {"gap_unit": run.gap_unit}),
        "loads_until": str(today + datetime.timedelta(days=PROMISED_DAYS)),
        "echojax": __version__,
    }


def export_program(model: SequenceModel, k: int) -> export.Exported:
    """Return a program that recommends for any number of histories, on all of ``PLATFORMS``.

    Its arguments are ``weights`` (arrays by dotted name), ``item_ids`` (the newest items' numbers,
    int32 (B, max_len), right padded with 0), ``lengths`` (items in each row, int32 (B,), at least
    1) and ``seen`` (items not to recommend, int32 (B, S), padded with 0). A model that reads the
    times between events also takes ``gaps`` (``echojax.data.gaps``, float32 (B, max_len)). The
    program returns scores, float32 (B, k), in descending order, and the numbers of these items,
    int32 (B, k). Where fewer than k items are left, the rest is minus infinity and 0. The scan of
    ``model`` must run on all platforms.

    The program returns the best items, not the scores of all items, because these would take 4 V
    bytes per history (40 MB at ten million items) to move off the device and to search again. k is
    fixed; callers that need fewer items take the first ones. The weights are an argument, so that
    the program stays small and works with other weights of the same sizes.
    """
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def recommend(
        arrays: dict[str, jax.Array],
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        seen_BxS: jax.Array,
        *gaps_BxL: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        def given(path: tuple[Any, ...], param: nnx.Variable) -> nnx.Variable:
            return param.replace(arrays[".".join(map(str, path))])

        model = nnx.merge(graphdef, nnx.map_state(given, params), rest)

        def encode(item_ids_L: jax.Array, length: jax.Array, *gaps: jax.Array) -> jax.Array:
            gaps_1xL = gaps[0][None] if gaps else None
            return model.encode(item_ids_L[None], length[None], gaps_BxL=gaps_1xL)[0]

        # Mapped over rows, because models tile by the batch size, which is symbolic here.
        user_BxD = jax.vmap(encode)(item_ids_BxL, lengths_B, *gaps_BxL)
        item_VxD = model.output_embeddings()
        top = top_k(user_BxD, item_VxD, seen_BxS, item_VxD.shape[0], k=k)
        return top.score_BxK, top.item_BxK

    batch, seen = export.symbolic_shape("b, s")
    gaps = [jax.ShapeDtypeStruct((batch, model.max_len), jnp.float32)] * model.time_gaps
    with _without_source_locations():
        return export.export(jax.jit(recommend), platforms=PLATFORMS)(
            weights(model),
            jax.ShapeDtypeStruct((batch, model.max_len), jnp.int32),
            jax.ShapeDtypeStruct((batch,), jnp.int32),
            jax.ShapeDtypeStruct((batch, seen), jnp.int32),
            *gaps,
        )


@contextmanager
def _without_source_locations() -> Iterator[None]:
    """Keep the paths of this machine's source files out of the lowered program."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _check_output(output: Path) -> None:
    """Raise ``UserError`` where ``output`` holds something other than an earlier export."""
    check_output_folder(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a folder")
    names = {path.name for path in output.iterdir()} if output.exists() else set()
    others = sorted(name for name in names - {*_FILES} if not name.startswith(_NO_EXPORT))
    if others or (names & {*_FILES} and _MANIFEST not in names):
        held = f"holds {others[0]}" if others else "has no manifest"
        raise UserError(f"--output {output} is no export ({held}); delete it or name another")
    if _MANIFEST in names:
        cure = "delete it or name another --output"
        if read_record(output / _MANIFEST, _Manifest, cure=cure).get("format") != _FORMAT:
            raise UserError(f"--output {output} is of another program; delete it or name another")


@contextmanager
def _filling(output: Path) -> Iterator[Path]:
    """Yield an empty folder whose files are moved to ``output`` if the block raises no error.

    Otherwise ``output`` stays as it was; a process that is killed leaves at most a folder
    ``.new.*`` in it. The folder itself is never replaced, because it may be a container's volume.
    """
    made = not output.exists()
    try:
        output.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=".new.") as aside, ExitStack() as undo:
            new, earlier = Path(aside, "new"), Path(aside, "earlier")
            new.mkdir()
            earlier.mkdir()
            yield new
            for name in _FILES:
                if (output / name).exists():
                    os.replace(output / name, earlier / name)
                    undo.callback(os.replace, earlier / name, output / name)
                else:
                    undo.callback((output / name).unlink, missing_ok=True)
                os.replace(new / name, output / name)
            undo.pop_all()
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None
    finally:
        if made:
            with suppress(OSError):  # it holds an export
                output.rmdir()


def _size_and_checksum(path: Path) -> dict[str, Any]:
    """Write a file through to the disk; return its entry in the manifest."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
