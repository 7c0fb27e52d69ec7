"""The folder of an exported model: whole or absent, and never in the place of anything else."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from echojax.errors import UserError
from echojax.files import read_json

FORMAT = "echojax-export"
MANIFEST = "manifest.json"
PROGRAM = "program.jax_export"
WEIGHTS = "weights.npz"
ITEMS = "items.json"


def check_output(output: Path) -> None:
    """Raise ``UserError`` where ``output`` holds something other than an earlier export."""
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: its folder does not exist; make it first")
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"--output {output} is a file; name a folder")
    others = sorted({path.name for path in output.iterdir()} - {MANIFEST, PROGRAM, WEIGHTS, ITEMS})
    if others or not (output / MANIFEST).is_file():
        held = f"holds {others[0]}" if others else "has no manifest"
        raise UserError(f"--output {output} is no export ({held}); delete it or name another")
    if read_json(output / MANIFEST).get("format") != FORMAT:
        raise UserError(f"--output {output} is of another program; delete it or name another")


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """Yield an empty folder that takes ``output``'s place where the block ends without an error.

    Whatever ends it early, ``output`` stays as it was. A process that is killed leaves at most a
    folder ``.NAME.*`` beside it.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as aside:
            new, earlier = Path(aside, "new"), Path(aside, "earlier")
            new.mkdir()
            yield new
            try:
                if output.exists():
                    os.replace(output, earlier)
                os.replace(new, output)
            except BaseException:
                if earlier.exists() and not output.exists():
                    os.replace(earlier, output)
                raise
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None


def entry(path: Path) -> dict[str, Any]:
    """Return what the manifest says of a file, once it is on the disk: bytes and SHA-256."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
