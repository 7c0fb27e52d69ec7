"""Valid content of every kind of file, small: what inputs are made from."""

import dataclasses
import io
import json

import numpy as np
import polars as pl

from echojax.config import Config
from echojax.evaluation.metrics import metric_names
from tests.test_run_files import RESULTS as RESULTS_OF_A_RUN

_ROWS = [
    (f"u{user}", f"item-{(user * 3 + at) % 9}", 881250949 + 60 * at)
    for user in range(5)
    for at in range(4 + user)
]


def _lines(pattern, header=""):
    rows = (pattern.format(u=user, i=item, t=at) for user, item, at in _ROWS)
    return "".join([header, *(row + "\n" for row in rows)]).encode()


def _histories():
    items = {user: [item for who, item, _ in _ROWS if who == user] for user, *_ in _ROWS}
    return "".join(f"{user} {' '.join(of)}\n" for user, of in items.items()).encode()


_INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
# By format: the file's name, and its text.
EVENTS = {
    "inter": ("x.inter", _lines("{u}\t{i}\t5\t{t}", _INTER)),
    "csv": ("x.csv", _lines('{u},"{i}",{t}', "user,item,time\n")),
    "tsv": ("x.tsv", _lines("{u}\t{i}\t{t}", "user\titem\ttimestamp\n")),
    "jsonl": ("x.json", _lines('{{"reviewerID": "{u}", "asin": "{i}", "unixReviewTime": {t}}}')),
    "ratings.dat": ("ratings.dat", _lines("{u}::{i}::5::{t}")),
    "u.data": ("u.data", _lines("{u}\t{i}\t3\t{t}")),
    "ratings.csv": ("x.csv", _lines("{u},{i},4.0,{t}")),
    "pairs": ("x.txt", _lines("{u} {i}")),
    "histories": ("x.txt", _histories()),
}


def columnar():
    """Return the same events as Parquet and Arrow files."""
    table = pl.DataFrame(_ROWS, schema=["user", "item", "time"], orient="row")
    parquet, arrow = io.BytesIO(), io.BytesIO()
    table.write_parquet(parquet)
    table.write_ipc(arrow)
    return {"parquet": parquet.getvalue(), "arrow": arrow.getvalue()}


# Of x.item, movies.dat and u.item.
TITLES = (
    b"item_id:token\tmovie_title:token_seq\trelease_year:token\n1\tToy Story\t1995\n"
    b"2\tGoldenEye\t1995\n3\t\xc3\x89t\xc3\xa9\t\n",
    b"1::Toy Story (1995)::Animation|Comedy\n2::Caf\xe9 (1995)::Drama\n",
    b"1|Toy Story (1995)|01-Jan-1995||http://x\n2|GoldenEye (1995)|01-Jan-1995||\n",
)


def _json(value):
    return json.dumps(value).encode()


def _npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)  # some examples are what must be refused
    return buffer.getvalue()


CONFIG = _json(dataclasses.asdict(Config(d_model=8, max_len=8)))
RESULTS = _json(
    RESULTS_OF_A_RUN
    | {
        "dataset": {"name": "x", "users": 9, "items": 8, "interactions": 90, "sha256": "0"},
        "protocol": {"split": "leave-one-out", "ranking": "full", "exclude_seen": False},
        "train": {"seconds": 1, "steps": 9, "best_step": 9, "epochs": 1.0},
    }
)
METRICS = b"".join(
    _json({"kind": kind, "step": step, "epoch": 1.0, "loss": 3.2, "seconds": 1.0} | scores) + b"\n"
    for step in (4, 8)
    for kind, scores in (("train", {}), ("valid", dict.fromkeys(metric_names(), 0.1)))
)
ITEMS = _json(
    {"dataset": "ring", "sha256": "ab", "item_ids": ["", "a", "b"], "titles": ["", "A", "B"]}
)
_RANKS = {
    f"{part}_{name}_M": np.arange(1, 30, dtype=np.int32)
    for part in ("valid", "test")
    for name in ("rank", "user", "length")
}
_ODD_RANKS = ([{"an": "object"}], np.arange(6.0).reshape(2, 3), np.arange(29))
RANKS = [_npz(**_RANKS)] + [_npz(**_RANKS | {"test_rank_M": np.array(odd)}) for odd in _ODD_RANKS]
INSIGHT = [
    _npz(**{f"filter/0/{when}": np.ones((5, 8), np.complex64) for when in ("before", "after")}),
    _npz(**{"filter/0/after": np.ones(5), "memory/0/forward/after": np.array(["text"])}),
]
SUITE = b"""title = "A suite"
about = "What it is for."
seeds = [0, 1]
reference = "main"
flags = {epochs = 2, learning_rate = 1e-3}

[datasets.ml-100k]
sample_users = 20

[datasets.mine]
data_path = "mine.inter"

[variants]
main = {model = "echomamba4rec"}
other = {model = "sasrec", layers = 2}

[ablation.no-filter]
filter = false

[global_time]
variants = ["main"]
datasets = ["ml-100k"]
"""
