"""Write a trained run for use elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from echojax.command_line import logged_terminal, parse
from echojax.flags import Positive, RunFolderFlags
from echojax.signals import Stopped


@dataclass(frozen=True, kw_only=True)
class Flags(RunFolderFlags):
    """Write the best checkpoint of a run as a folder that jax and numpy run without echojax."""

    output: Path
    """The new folder; an earlier export there is replaced."""
    k: Annotated[Positive, tyro.conf.arg(aliases=["-k"])] = 100
    """How many items an answer has; of these one can use fewer."""


def main(words: list[str]) -> None:
    """Run the command."""
    flags = parse(Flags, args=words)
    console = logged_terminal()
    try:
        from echojax.compilation import use_compilation_cache
        from echojax.serving.export import export_run

        use_compilation_cache()
        manifest = export_run(
            flags.run_dir,
            flags.output,
            k=flags.k,
            data_dir=flags.data_dir,
            data_path=flags.data_path,
        )
    except Stopped as stop:
        console.print(f"stopped: {flags.output} is as it was")
        raise SystemExit(128 + stop.signum) from None
    for name, file in manifest["files"].items():
        console.print(f"{file['bytes']:>13,} bytes  {flags.output / name}")
    console.print(
        f"{manifest['model']} of step {manifest['step']}, {manifest['items']:,} items, "
        f"{manifest['parameters']:,} parameters, "
        f"the best {manifest['k']} for histories of {manifest['max_len']}; "
        f"platforms: {', '.join(manifest['platforms'])}"
    )
