"""Every reader of files: what its inputs are made from, and how it is called."""

import gzip
from functools import partial
from pathlib import Path

from echojax.data import FORMATS, Columns, item_titles, prepare
from echojax.data.cache import load as load_prepared
from echojax.data.cache import save as save_prepared
from echojax.data.dataset import ids_by_number
from echojax.data.events import read_events
from echojax.data.text import TextFile
from echojax.errors import UserError
from echojax.fuzzing import examples
from echojax.fuzzing.archive_mutations import in_gzip, in_zip, mutate_npz
from echojax.fuzzing.mutations import mutate_text
from echojax.fuzzing.run_folder_targets import run_folder_targets
from echojax.fuzzing.target import Target
from echojax.reproduction.suite_file import read_suite


def all_targets(folder: Path) -> dict[str, Target]:
    """Return the readers by name; ``folder`` is for what must be made first."""
    targets = {"interactions, plain": _plain("x.txt", None)}
    for name, (file, text) in examples.INTERACTIONS.items():
        targets[name] = _plain(file, text)
        targets[f"{name}, forced"] = _plain("x.bin", text, name)
        targets[f"{name}.gz"] = Target(
            f"{file}.gz", [text], in_gzip(mutate_text), partial(_interactions, f"{file}.gz")
        )
    for name, table in examples.columnar().items():
        targets[name] = _plain(f"x.{name}", table)
    for archive, member, kind in (
        ("ml-100k.zip", "ml-100k/u.data", "u.data"),
        ("ml-1m.zip", "ml-1m/ratings.dat", "ratings.dat"),
        ("recbole.whl", "recbole/dataset_example/ml-100k/ml-100k.inter", "inter"),
    ):
        read = partial(_interactions, archive, member=member)
        text = examples.INTERACTIONS[kind][1]
        targets[f"{archive}: {member}"] = Target(archive, [text], in_zip(mutate_text, member), read)
    return targets | _titles() | run_folder_targets() | {
        "suite.toml": Target(
            "suite.toml", [examples.SUITE], mutate_text, lambda f: read_suite(f / "suite.toml")
        ),
        "prepared.npz": Target("p.npz", [_prepared(folder)], mutate_npz, _read_prepared),
    }  # fmt: skip


def _plain(file: str, text: bytes | None, data_format: str | None = None) -> Target:
    valid = [text] if text else [text for _, text in examples.INTERACTIONS.values()]
    return Target(file, valid, mutate_text, partial(_interactions, file, data_format=data_format))


def _interactions(
    file: str, folder: Path, *, member: str | None = None, data_format: str | None = None
) -> None:
    found = read_events([TextFile(folder / file, member)], Columns(data_format=data_format))
    assert found.layout.data_format in FORMATS
    assert found.frame.height > 0
    for column in (found.frame["user"], found.frame["item"]):
        ids = ids_by_number(column)
        assert column.unique(maintain_order=True).cast(str).to_list() == ids.to_list()
        assert all(ids)
    assert "time" not in found.frame.columns or found.frame["time"].is_finite().all()
    for duplicates in ("keep", "last"):
        dataset = prepare(file, found.frame, k_core=1, duplicates=duplicates)
        assert dataset.items_T.min() == 1
        assert dataset.items_T.max() == dataset.num_items - 1


def _titles() -> dict[str, Target]:
    def titles(name: str, folder: Path) -> None:
        assert isinstance(item_titles(name, data_dir=folder), dict)

    def beside(folder: Path) -> None:
        assert isinstance(item_titles("x", data_path=folder / "x.inter"), dict)

    item, movies, u_item = examples.TITLES.values()
    in_ml_1m, in_ml_100k = (in_zip(mutate_text, m) for m in ("ml-1m/movies.dat", "ml-100k/u.item"))
    return {
        "titles": Target("x.item", [item], mutate_text, beside),
        "titles.gz": Target("x.item.gz", [item], in_gzip(mutate_text), beside),
        "titles, u.item": Target("u.item", [u_item], mutate_text, partial(titles, "ml-100k")),
        "titles, ml-1m.zip": Target("ml-1m.zip", [movies], in_ml_1m, partial(titles, "ml-1m")),
        "titles, ml-100k.zip": Target(
            "ml-100k.zip", [u_item], in_ml_100k, partial(titles, "ml-100k")
        ),
    }


def _prepared(folder: Path) -> bytes:
    text = folder / "x.inter"
    text.write_bytes(gzip.compress(examples.INTERACTIONS["inter"][1]))
    found = read_events([TextFile(text)])
    save_prepared(prepare("x", found.frame, k_core=0), folder / "prepared.npz")
    return (folder / "prepared.npz").read_bytes()


def _read_prepared(folder: Path) -> None:
    try:
        load_prepared("x", folder / "p.npz")
    except (OSError, ValueError) as error:  # said, and prepared again
        raise UserError(str(error)) from None
