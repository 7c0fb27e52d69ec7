"""How does our SASRec compare with others' of the same sizes? python benchmarks/peers.py.

Both are trained on our split. The other library runs in a virtual environment of its own, and
returns the vectors of histories and items; their scores are ranked as those of our models are.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

import echojax
import harness
from echojax.data import Dataset, Examples, Split, leave_one_out, load_dataset
from echojax.errors import UserError
from echojax.evaluation.baselines import Scorer, rank_by
from echojax.files import read_json, write_json
from echojax.flags import Share
from echojax.machine import cores
from echojax.models.heuristic import training_positions
from echojax.suites.results import Ranks
from harness import log
from prequential import compared, ranks_of


class Peer(NamedTuple):
    """A library: what is installed, and what of the settings is its own."""

    requirements: tuple[str, ...]
    settings: dict[str, int]


# RecBole's epochs are passes over all prefixes. It does not run with the newest of these libraries.
_OLDER = ("numpy<2", "pandas<2.2", "scipy<1.12", "setuptools<70")
PEERS = {
    "rectools": Peer(("rectools[torch]",), {}),
    "recbole": Peer(("recbole==1.2.1", *_OLDER), {"batch_size": 2048, "patience": 10}),
}


@dataclass(frozen=True)
class Settings:
    """The settings of both trainings: sizes, a constant learning rate, patience in epochs."""

    dataset: str = "ml-100k"
    seed: int = 0
    d_model: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5
    max_len: int = 50
    batch_size: int = 128
    learning_rate: float = 1e-3
    epochs: int = 300
    patience: int = 30


@dataclass(frozen=True)
class Flags(harness.DataFlags):
    """Train another library's SASRec and ours on the same split, and rank the same test items.

    RecTools' model differs in its layers, which are those of the SASRec paper (pre-normalization,
    and feed-forward layers as wide as the model), in its positions, which are counted from the end
    of the window, and in its epochs, which have one window per user, the newest. RecBole's has our
    layers, and is trained on one prefix at a time, 2,048 in a step, with patience 10.
    """

    peer: Literal["rectools", "recbole"] = "rectools"
    """The library."""
    dataset: str = "ml-100k"
    """Name of the data set, which is split by leave-one-out."""
    seed: int = 0
    """Seed of both models."""
    dropouts: tuple[Share, ...] = (0.5, 0.2)
    """Dropout of both models; with each, both are trained."""
    folder: Path = Path("runs/peers")
    """Folder for the virtual environment, our runs and the files that are exchanged. Those that
    exist are used again."""


def main(flags: Flags) -> None:
    """Train the models that have not been trained yet, and compare them."""
    common = Settings(flags.dataset, flags.seed)
    dataset = load_dataset(flags.dataset, data_dir=flags.data_folder)
    split = leave_one_out(dataset, Settings.max_len)
    test = split.test
    compared_settings = asdict(common) | {"dropout": flags.dropouts}
    compared_settings |= {"peer": flags.peer, "theirs": PEERS[flags.peer].settings}
    with harness.record_of("peers", flags, compared_settings) as record:
        for settings in (replace(common, dropout=one) for one in flags.dropouts):
            folder = trained(flags, settings, dataset, split)
            score = scorer_of(dict(np.load(folder / "theirs.npz")))
            ours = read_json(folder / "ours" / "results.json")["train"]
            record.document.facts[f"dropout {settings.dropout}"] = {
                "ours": {name: ours[name] for name in ("best_epoch", "seconds", "parameters")},
                "theirs": read_json(folder / "theirs.json"),
            }
            cases = [{"dropout": settings.dropout, "exclude_seen": seen} for seen in (False, True)]
            for case in record.missing(cases):
                seen = case["exclude_seen"]
                found = rank_by(score, test, dataset.num_items, exclude_seen=seen)
                theirs = Ranks(found.rank_M, test.user_M, test.target_M - test.start_M)
                rows = compared(ranks_of(flags, folder / "ours", exclude_seen=seen), theirs)
                record.add(*(case | row for row in rows))
    for row in record.document.rows:
        seen = "filtered" if row["exclude_seen"] else "kept"
        log.info(
            f"dropout {row['dropout']}  seen {seen:<9} {row['metric']:<8} ours {row['ours']:.4f}  "
            f"theirs {row['theirs']:.4f}  {row['difference']:+.4f} "
            f"[{row['low']:+.4f}, {row['high']:+.4f}]"
        )


def trained(flags: Flags, settings: Settings, dataset: Dataset, split: Split) -> Path:
    """Return the folder of both models, which are trained if they have not been yet."""
    name = f"{flags.peer}-{settings.dataset}-{settings.dropout}-seed-{settings.seed}"
    folder = flags.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "theirs.json").exists():
        peer = PEERS[flags.peer]
        theirs = asdict(settings) | peer.settings | {"cores": cores()}
        write_json(folder / "settings.json", theirs)
        np.savez(folder / "split.npz", **exported(dataset, split))
        script = Path(__file__).with_name(f"peers_{flags.peer}.py")
        python = environment(flags.folder / f"environment-{flags.peer}", peer.requirements)
        _run(python, script, folder)
    if not (folder / "ours" / "results.json").exists():
        own = asdict(settings)
        del own["dataset"]
        echojax.train(dataset, model="sasrec", run_dir=folder / "ours", **own)
    return folder


def exported(dataset: Dataset, split: Split) -> dict[str, Any]:
    """Return the split as arrays: the training events in order, and the histories to be scored."""
    positions = training_positions(split.train)
    owners = np.searchsorted(dataset.offsets, positions, side="right") - 1
    arrays = {"user_T": owners, "item_T": dataset.items_T[positions]}
    for part in ("valid", "test"):
        examples: Examples = getattr(split, part)
        shown = examples.gather(np.arange(len(examples)))
        arrays[f"{part}_ids_BxL"] = shown["item_ids"]
        arrays[f"{part}_targets_B"] = shown["targets"]
        arrays[f"{part}_users_B"] = examples.user_M
    return arrays | {"num_items": np.array(dataset.num_items)}


def scorer_of(theirs: dict[str, np.ndarray]) -> Scorer:
    """Return a function that scores test examples by the other library's vectors.

    Items for which it has no vectors, as RecTools for those that are not in training, have -inf.
    """
    number_of_V, user_BxD = theirs["number_of_V"], theirs["user_BxD"]
    item_VxD, unknown_V = theirs["item_VxD"][number_of_V], number_of_V == 0

    def score(examples: Examples, rows: np.ndarray) -> np.ndarray:
        return np.where(unknown_V, -np.inf, user_BxD[rows] @ item_VxD.T)

    return score


def environment(folder: Path, requirements: Sequence[str]) -> Path:
    """Return the Python of the virtual environment of a library, which is created if missing."""
    python = folder / "bin" / "python"
    if not python.exists():
        log.info(f"making {folder} with {requirements[0]}: some gigabytes")
        cure = f"; delete {folder}, then try again"
        _run(sys.executable, "-m", "venv", folder, cure=cure)
        _run(python, "-m", "pip", "install", "-q", *requirements, cure=cure)
    return python


def _run(*words: str | Path, cure: str = "") -> None:
    if subprocess.run(words, check=False).returncode:
        raise UserError(f"'{' '.join(map(str, words))}' failed{cure}")


if __name__ == "__main__":
    harness.run(Flags, main)
