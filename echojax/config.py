"""Everything a run can be told, one field a flag, and the named recipes."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from echojax.errors import UserError


@dataclass(frozen=True)
class Config:
    """Train a sequential recommender, evaluate it by full ranking, leave a run folder.

    --preset NAME starts from a named recipe (quickstart, ml-100k, ml-1m); other flags change it.
    """

    # What to learn from.
    dataset: str = "synthetic"
    """Name of the data set: synthetic, ml-100k, ml-1m, amazon-beauty, amazon-video-games."""
    data_path: str | None = None
    """Your own file instead: Parquet, Arrow (Feather), CSV/TSV, .inter, JSON lines, ratings.dat,
    u.data, `user item` pairs or one history a line; text also as .gz. A pattern ('log-*.csv') or a
    folder of parts stands for several."""
    data_dir: str | None = None
    """Folder that holds the data sets' files (else $ECHOJAX_DATA, else the user's cache)."""
    data_format: str | None = None
    """Format of --data-path where it is not recognised: inter, csv, tsv, jsonl, ratings.dat,
    u.data, ratings.csv, pairs, histories."""
    columns: str | None = None
    """Names of all columns of a file without a header, such as user,time,item,_ (user, item and
    time are used)."""
    user_column: str | None = None
    """Name of the user column, where the file names its columns."""
    item_column: str | None = None
    """Name of the item column."""
    time_column: str | None = None
    """Name of the time column (file order where there is none)."""
    time_format: str | None = None
    """How dates are written where they are not ISO 8601, such as '%d.%m.%Y %H:%M'."""
    missing_ids: Literal["refuse", "drop", "keep"] = "refuse"
    """What to do with rows whose user or item is empty, NA, NULL, NaN or the like: stop, leave them
    out, or take the word for an id."""
    k_core: int = 5
    """Keep users and items with at least this many interactions, iterated until stable."""
    duplicates: Literal["keep", "first", "last"] = "keep"
    """What to do with a user's repeated interactions with one item."""
    split: Literal["leave-one-out", "global-time"] = "leave-one-out"
    """Last item tests and last but one validates, or everybody's events after 80 % and 90 % of
    the time."""

    # What to learn.
    model: str = "echomamba4rec"
    """Name of the model: echomamba4rec, mamba4rec, sasrec, hstu, bert4rec, gru4rec, narm, caser,
    fmlp-rec; popularity, markov, item-knn."""
    variant: Literal["echojax", "official"] = "echojax"
    """EchoMamba4Rec as corrected here, or exactly the authors' function."""
    mask_padding: bool | None = None
    """Zero padding before and behind the filter (None: as the variant says)."""
    reverse_from_last: bool | None = None
    """Start the backward scan at the last item, not at the padding (None: as the variant)."""
    join_both_ends: bool | None = None
    """Read backward at the first item, where it has seen the whole history (None: as the
    variant)."""
    time_step_init: bool | None = None
    """Start time steps at 0.001..0.1, not all at 0.69 (None: as the variant)."""
    plain_depth: bool | None = None
    """k layers hold k Mambas a direction, not k * k (None: as the variant)."""
    filter: bool = True
    """EchoMamba4Rec's FFT filter (False leaves it out, for ablations)."""
    backward: bool = True
    """EchoMamba4Rec's Mamba from the end to the start."""
    glu: bool = True
    """EchoMamba4Rec's gated linear unit."""
    d_model: int | None = None
    """D, the size of embeddings and hidden states (None, here and below: as in its paper)."""
    layers: int | None = None
    """How many layers."""
    heads: int | None = None
    """Attention heads."""
    hidden_size: int | None = None
    """Width of the recurrent state."""
    window: int | None = None
    """How many of the newest items a convolution sees."""
    d_state: int | None = None
    """N, Mamba's states a channel."""
    d_conv: int | None = None
    """Taps of Mamba's convolution."""
    expand: int | None = None
    """Mamba's inner channels over d_model."""
    mask_rate: float | None = None
    """Share of a sequence's items that the cloze objective hides."""
    dropout: float | None = None
    """Dropout rate."""
    max_len: int | None = None
    """How many of the newest items are read (None: 200 for ml-1m, the data set's own elsewhere)."""
    scan: str = "auto"
    """Selective scan: auto, pallas_gpu, pallas_tpu, fused, chunked, associative, sequential."""

    # How to learn it.
    precision: Literal["float32", "bf16"] = "float32"
    """Of activations. With bf16 parameters, optimiser, time steps, decays, states, softmax and loss
    stay float32."""
    objective: str | None = None
    """What one row predicts: prefixes (the item behind a prefix), all-positions (behind each
    position of one pass: causal models alone) or cloze (hidden items) (None: the model's own)."""
    loss: Literal["softmax", "sampled-softmax", "gbce", "bce", "bpr"] = "softmax"
    """Training loss: exact cross entropy over the whole catalogue (softmax), estimated from drawn
    items (sampled-softmax, corrected by logQ), or (generalised) binary cross entropy or Bayesian
    personalised ranking against drawn items (gbce, bce, bpr)."""
    negatives: int | None = None
    """Items drawn against each target (None: 256; bce and bpr 1)."""
    negative_sampling: Literal["uniform", "popularity", "in-batch"] | None = None
    """Where they come from: all items alike (None), as often as each is a training target, or the
    targets of the batch."""
    gbce_t: float | None = None
    """gBCE's calibration: 0 is bce, 1 leaves no overconfidence (None: 0.75, as published)."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all items alike (softmax)."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    warmup_steps: int = 0
    """Steps in which it rises from 0."""
    decay_steps: int | None = None
    """Steps behind the warm-up in which it falls to 0 along a cosine (None: it stays)."""
    weight_decay: float = 0.0
    """Share of each weight matrix that is taken away a step, times the step size (AdamW)."""
    clip_norm: float | None = None
    """Longest gradient, over all parameters; a longer one is shortened (None: any)."""
    item_optimizer: Literal["adam", "rowwise"] = "adam"
    """Of the item table: Adam's two numbers a weight, or one a row (the running root mean square of
    its gradient, no momentum), for tables that fill the memory."""
    batch_size: int | None = None
    """Rows a step (None: 2048 prefixes, 256 on synthetic; 128 sequences, 32 on synthetic)."""
    microbatch: int | None = None
    """Examples held in memory at once; gradients are summed (None: chosen by device)."""
    epochs: int = 200
    """Most passes over the training examples."""
    max_steps: int | None = None
    """Most steps in all (None: no limit)."""
    patience: int = 10
    """Stop after this many validations without a better NDCG@10, not before --decay-steps are
    spent."""
    eval_every: int = 1
    """Epochs between validations."""
    seed: int = 0
    """Seed of initial values, dropout and data order."""
    seeds: int = 1
    """Train this many seeds, from --seed on, as one program; each leaves its own run folder,
    seed-N, in --run-dir."""

    # How to judge it.
    exclude_seen: bool = False
    """Leave items of the history out of the ranking (the target always stays in)."""
    eval_batch_size: int | None = None
    """Histories ranked at once (None: 64 on a CPU, 1024 elsewhere)."""

    # Where it runs and what it leaves.
    run_dir: str | None = None
    """The run folder (None: runs/DATASET-MODEL-VARIANT-seedN, or -seedsN for several)."""
    resume: bool = False
    """Go on from the newest checkpoint in --run-dir; flags not given are taken from there."""
    item_shards: int = 1
    """Parts of the item table, its optimiser state and the softmax, each on devices of its own."""
    sequence_shards: int = 1
    """Parts of each history, each on a device of its own (echomamba4rec and mamba4rec)."""
    parallel: Literal["shard_map", "pmap"] = "shard_map"
    """What maps the step over several devices (pmap: those of one host)."""
    coordinator: str | None = None
    """Address and port of the first of several processes, HOST:PORT (None: found without help on
    Slurm, Open MPI, Kubernetes jobs and Cloud TPU, or there is one process)."""
    num_processes: int | None = None
    """How many processes train together (with --coordinator)."""
    process_id: int | None = None
    """This process's number among them, from 0 (with --coordinator)."""
    checkpoint_every: int = 500
    """Steps between checkpoints inside an epoch (one is written at each validation anyway)."""
    data_workers: int = 0
    """Processes that prepare batches (0: background threads of this process)."""
    profile: int | None = None
    """Trace this many steps into RUN/profile and tell what their time went to: input, compute,
    collectives or host (of a resumed run: give it again)."""
    tensorboard: bool = False
    """Write metrics for TensorBoard too (pip install 'echojax[tensorboard]')."""
    wandb: bool = False
    """Send metrics to Weights & Biases too (pip install 'echojax[wandb]')."""


# Flags that a resumed run may change: none alters what a step does. Data are compared by checksum.
RESUMABLE = {
    "data_dir", "data_path", "eval_batch_size", "epochs", "max_steps", "patience", "run_dir",
    "resume", "checkpoint_every", "data_workers", "tensorboard", "wandb", "parallel", "coordinator",
    "num_processes", "process_id", "item_shards", "sequence_shards", "profile",
}  # fmt: skip

_POSITIVE = (
    "d_model", "layers", "heads", "hidden_size", "window", "d_state", "d_conv", "expand",
    "max_len", "negatives", "batch_size", "microbatch", "epochs", "max_steps", "patience",
    "eval_every", "eval_batch_size", "checkpoint_every", "seeds", "decay_steps", "num_processes",
    "item_shards", "sequence_shards", "profile",
)  # fmt: skip


def check(config: Config) -> None:
    """Raise ``UserError`` for a value that no run can have, naming the flag."""
    for name in _POSITIVE:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"{flag(name)} must be at least 1, not {value}")
    for name in ("k_core", "seed", "data_workers", "warmup_steps"):
        if getattr(config, name) < 0:
            raise UserError(f"{flag(name)} must be at least 0, not {getattr(config, name)}")
    for name in ("dropout", "weight_decay", "label_smoothing"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise UserError(f"{flag(name)} must be at least 0 and below 1, not {value}")
    if config.mask_rate is not None and not 0 < config.mask_rate < 1:
        raise UserError(f"--mask-rate must be above 0 and below 1, not {config.mask_rate}")
    for name in ("learning_rate", "clip_norm"):
        value = getattr(config, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"{flag(name)} must be above 0 and finite, not {value}")
    if config.batch_size and config.microbatch and config.batch_size % config.microbatch:
        raise UserError(
            f"--batch-size {config.batch_size} is not a multiple of "
            f"--microbatch {config.microbatch}; change one of them"
        )
    if config.parallel == "pmap" and config.item_shards * config.sequence_shards > 1:
        raise UserError("--parallel pmap spreads rows alone; leave it out with shards")
    _check_loss(config)


def _check_loss(config: Config) -> None:
    """Raise ``UserError`` for a flag that the loss would not read, or an impossible value."""
    meaningless = ["gbce_t"] if config.loss != "gbce" else []
    meaningless += ["negatives", "negative_sampling"] if config.loss == "softmax" else []
    for name in meaningless:
        if getattr(config, name) is not None:
            raise UserError(f"{flag(name)} has no meaning for --loss {config.loss}; leave it out")
    if config.label_smoothing and config.loss != "softmax":
        raise UserError(f"--label-smoothing is for --loss softmax, not for {config.loss}")
    if config.gbce_t is not None and not 0 <= config.gbce_t <= 1:
        raise UserError(f"--gbce-t must be between 0 and 1, not {config.gbce_t}")


def flag(name: str) -> str:
    """Return the command-line flag of a field."""
    return "--" + name.replace("_", "-")


def quickstart() -> Config:
    """Return what runs when nothing is asked for: made-up data, known optimum, no download.

    python experiments/train.py, about 2 minutes on 2 cores; test HR@10 about .61 (+-.02), where
    first-order Markov has .40 and the best possible predictor .90.
    """
    return Config(learning_rate=3e-3, dropout=0.0, epochs=2)


def ml_100k() -> Config:
    """Return the authors' configuration on ml-100k, corrected model.

    python experiments/train.py --preset ml-100k
    """
    return Config(dataset="ml-100k")


def ml_1m() -> Config:
    """Return the authors' configuration on ml-1m, corrected model.

    python experiments/train.py --preset ml-1m
    """
    return Config(dataset="ml-1m")


PRESETS: dict[str, Callable[[], Config]] = {
    "quickstart": quickstart,
    "ml-100k": ml_100k,
    "ml-1m": ml_1m,
}


def as_dict(config: Config) -> dict[str, object]:
    """Return the fields as plain JSON values."""
    return dataclasses.asdict(config)
