"""How much do item vectors help with new items? python benchmarks/cold_items.py.

A tenth of the items of ml-100k does not occur in training (--split cold-items). The vectors are
made from titles, years and genres by feature hashing, without any language model; "random" are
vectors of the same shape without information.
"""

import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import echojax
import harness
from echojax.data.sources import data_folders
from echojax.data.titles import read_titles
from echojax.errors import UserError
from echojax.evaluation.metrics import SHOWN
from echojax.flags import Positive
from echojax.report.tables import Column, Table
from harness import Row

_FIELDS = ("movie_title", "release_year", "class")
_HALF = 64  # dimensions for the title, and as many for year and genres
_ABOUT = (
    "Every item is a candidate. A user's warm target is the last of his or her items that are in "
    "training, the cold target the last of those that training never saw. Scores are means over "
    "seeds, with standard deviations."
)


@dataclass(frozen=True)
class Flags(harness.DataFlags):
    """Train with and without item vectors, and test on items that training never saw.

    The folder of the data holds ml-100k.inter.gz and ml-100k.item.gz.
    """

    model: str = "sasrec"
    """Name of the model."""
    epochs: Positive = 12
    """Epochs of each training; the learning rate warms up to 5e-3 over a tenth, then decays."""
    seeds: Positive = 3
    """Seeds of each training."""


def hashed(text: str) -> np.ndarray:
    """Return signed feature hashes of a line ``title · year · genres``, (2 * _HALF,), float64."""
    title, year, genres = [*text.split(" · "), "", ""][:3]
    words = title.lower().split()
    # Parts of words are hashed, too, since sequels share them.
    title_parts = words + [w[i : i + 4] for w in words for i in range(max(1, len(w) - 3))]
    kinds = [*genres.lower().split(), f"{year[:3]}0s"]
    return np.concatenate([_signed(title_parts), _signed(kinds)])


def _signed(parts: list[str]) -> np.ndarray:
    vector = np.zeros(_HALF)
    for part in parts:
        code = zlib.crc32(part.encode())
        vector[code % _HALF] += 1 if code >> 31 else -1
    return vector / max(1.0, float(np.linalg.norm(vector)))


def main(flags: Flags) -> None:
    """Train the cases that have no row yet, and write the file and its page."""
    folders = data_folders(flags.data_dir)
    path = next((p for f in folders if (p := f / "ml-100k.item.gz").is_file()), None)
    if path is None:
        raise UserError(f"no ml-100k.item.gz in {folders[0]}; name its folder with --data-dir")
    texts = read_titles(path, item="item_id", titles=_FIELDS)
    vectors = np.array([hashed(text) for text in texts.values()])
    given = {
        "none": None,
        "random": (list(texts), np.random.default_rng(0).normal(size=vectors.shape)),
        "hashed": (list(texts), vectors),
    }
    kinds = (("none", None), ("hashed", "add"), ("hashed", "replace"), ("random", "add"))
    cases: list[Row] = [{"vectors": vectors, "use": use} for vectors, use in kinds]
    with harness.record_of("cold_items", flags) as record:
        for case in record.missing(cases):
            options = {} if case["use"] is None else {"item_vectors_use": case["use"]}
            with record.row(case) as row, tempfile.TemporaryDirectory() as folder:
                run = echojax.train(
                    "ml-100k",
                    model=flags.model,
                    seeds=flags.seeds,
                    epochs=flags.epochs,
                    learning_rate=5e-3,
                    schedule="cosine",
                    warmup=0.1,
                    eval_every=2,
                    quiet=True,
                    split="cold-items",
                    item_vectors=given[case["vectors"]],
                    data_dir=flags.data_folder,
                    run_dir=Path(folder) / "run",
                    **options,
                )
                results = [one.results for one in run.seeds]
                row["items"] = results[0]["dataset"]["items"]
                row["train"] = [one["train"] for one in results]
                for kind in ("warm", "cold"):
                    row[kind] = [one["cold_items"][kind] for one in results]
    record.write_page("New items", table(record.document.rows), pictures={})


def table(rows: list[Row]) -> Table:
    """Return the table of scores on warm and cold targets with each kind of vectors."""
    measured = [row for row in rows if row["status"] == "measured"]
    lines = []
    for row in measured:
        cells = [
            _mean_and_spread([one[metric] for one in row[kind]])
            for kind in ("warm", "cold")
            for metric in SHOWN
        ]
        use = {None: "", "add": ", added", "replace": " alone"}[row["use"]]
        lines.append([f"{row['vectors']}{use}", f"{row['items']:,}", *cells])
    names = [f"{metric.upper()}, {kind}" for kind in ("warm", "cold") for metric in SHOWN]
    return Table(["vectors", "items", *(Column(name) for name in names)], lines, "Scores", [_ABOUT])


def _mean_and_spread(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


if __name__ == "__main__":
    harness.run(Flags, main)
