"""The flags of ``train``: fields with type, limits, help and facts that other modules use."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal

from msgspec import Meta

FINITE = 1e300
Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
# Of an array's axis: a larger size can only be a mistake.
Size = Annotated[int, Meta(ge=1), Meta(le=2**20)]
Seed = Annotated[int, Meta(ge=0), Meta(lt=2**32)]  # JAX ignores further bits
Share = Annotated[float, Meta(ge=0, lt=1)]
PositiveNumber = Annotated[float, Meta(gt=0, le=FINITE)]
NotNegativeNumber = Annotated[float, Meta(ge=0), Meta(le=FINITE)]


class Fact(Enum):
    """A fact about a field."""

    MODEL_SIZE = "a size of the model; a model takes those that its constructor names"
    # None of these changes what a step computes; data are compared by checksum.
    RESUMABLE = "a resumed run may change it"


@dataclass(frozen=True)
class NotInSuites:
    """The field is not allowed in a suite's file; ``instead`` says what to use."""

    instead: str


ModelSize = Annotated[Size | None, Fact.MODEL_SIZE]
RESUMED_ANYWAY = NotInSuites("interrupted runs are resumed anyway")
ONE_PROCESS = NotInSuites("one process makes a suite's runs")


@dataclass(frozen=True)
class DataFlags:
    """What to learn from."""

    dataset: str = "synthetic"
    """Name of the data set: synthetic, ml-100k, ml-1m, amazon-beauty, amazon-video-games."""
    data_path: Annotated[str | None, Fact.RESUMABLE] = None
    """Your own file instead: Parquet, Arrow (Feather), CSV/TSV, .inter, JSON lines, ratings.dat,
    u.data, `user item` pairs or one history a line; text also as .gz. A pattern ('log-*.csv') or a
    folder of parts names several files."""
    data_dir: Annotated[str | None, Fact.RESUMABLE, NotInSuites("use --data-dir")] = None
    """Folder that holds the data sets' files (else $ECHOJAX_DATA, else the user's cache)."""
    data_format: str | None = None
    """Format of --data-path, if it is not recognised: inter, csv, tsv, jsonl, ratings.dat,
    u.data, ratings.csv, pairs, histories."""
    columns: str | None = None
    """Names of all columns of a file without a header, such as user,time,item,_ (user, item and
    time are used)."""
    user_column: str | None = None
    """Name of the user column, if the file names its columns."""
    item_column: str | None = None
    """Name of the item column."""
    time_column: str | None = None
    """Name of the time column (without one: the order of the file)."""
    time_format: str | None = None
    """Format of dates that are not ISO 8601, such as '%d.%m.%Y %H:%M'."""
    missing_ids: Literal["refuse", "drop", "keep"] = "refuse"
    """What to do with rows whose user or item is empty, NA, NULL, NaN or similar: stop, leave them
    out, or use the word as an id."""
    items_path: Annotated[str | None, Fact.RESUMABLE] = None
    """A table of the items with their titles, which are shown with recommendations (CSV, .item,
    JSON lines, Parquet)."""
    title_column: Annotated[str | None, Fact.RESUMABLE] = None
    """Name of its title column; several names between commas are joined."""
    k_core: NotNegative = 5
    """Keep users and items with at least this many interactions, iterated until stable."""
    duplicates: Literal["keep", "first", "last"] = "keep"
    """What to do with a user's repeated interactions with one item."""
    time_precision: Literal["exact", "float32"] = "exact"
    """Order events by their times as they are, or rounded to float32 as RecBole has them (64
    seconds apart at today's epoch seconds, and then by rows)."""
    ties: str = "file"
    """Order of a user's events at the same time: that of the file, or random (random:SEED)."""
    split: Literal["leave-one-out", "global-time", "cold-items"] = "leave-one-out"
    """Test on each user's last item and validate on the one before it; or validate on all events
    after 80 % of the time and test after 90 %; or as the first, and also test a tenth of the items,
    which training leaves out."""
    item_vectors: str | None = None
    """File of vectors by item id, such as of texts, which also score items not in training."""


@dataclass(frozen=True)
class ModelFlags:
    """What to learn."""

    model: str = "echomamba4rec"
    """Name of the model: echomamba4rec, mamba4rec, sasrec, esasrec, hstu, bert4rec, gru4rec, narm,
    caser, fmlp-rec; popularity, markov, item-knn, lagged-count."""
    variant: Literal["echojax", "causal", "official"] = "echojax"
    """EchoMamba4Rec as corrected here, the same with a causal filter (all prefixes of a history
    train in one pass), or exactly the authors' function."""
    mask_padding: bool | None = None
    """Zero padding before and after the filter (None: as the variant says)."""
    reverse_from_last: bool | None = None
    """Start the backward scan at the last item, not at the padding (None: as the variant)."""
    join_both_ends: bool | None = None
    """Read backward at the first item, where it has seen the whole history (None: as the
    variant)."""
    time_step_init: bool | None = None
    """Start time steps at 0.001..0.1, not all at 0.69 (None: as the variant)."""
    plain_depth: bool | None = None
    """k layers hold k Mambas a direction, not k * k (None: as the variant)."""
    causal_filter: bool | None = None
    """No position of the filter reads a later one (None: as the variant)."""
    filter: bool = True
    """EchoMamba4Rec's FFT filter (False leaves it out, for ablations)."""
    backward: bool = True
    """EchoMamba4Rec's Mamba from the end to the start."""
    glu: bool = True
    """EchoMamba4Rec's gated linear unit."""
    d_model: ModelSize = None
    """D, the size of embeddings and hidden states (None, here and below: as in its paper)."""
    layers: ModelSize = None
    """How many layers."""
    heads: ModelSize = None
    """Attention heads."""
    hidden_size: ModelSize = None
    """Width of the recurrent state."""
    window: ModelSize = None
    """How many of the newest items a convolution sees."""
    d_state: ModelSize = None
    """N, Mamba's states a channel."""
    d_conv: ModelSize = None
    """Taps of Mamba's convolution."""
    expand: ModelSize = None
    """Mamba's inner channels over d_model."""
    mask_rate: Annotated[Annotated[float, Meta(gt=0, lt=1)] | None, Fact.MODEL_SIZE] = None
    """Share of a sequence's items that the cloze objective hides."""
    dropout: Annotated[Share | None, Fact.MODEL_SIZE] = None
    """Dropout rate."""
    item_vectors_use: Literal["add", "replace"] = "add"
    """The learned linear map of the vectors is added to the id embedding, or replaces it."""
    lags: ModelSize = None
    """J of the lagged count: number of newest items, and of next events (None: by validation)."""
    damping: Annotated[Annotated[float, Meta(ge=0, le=1)] | None, Fact.MODEL_SIZE] = None
    """a of the lagged count: how far frequent items count less (None: chosen on validation)."""
    max_len: Size | None = None
    """How many of the newest items are read (None: 200 for ml-1m, the data set's own elsewhere)."""
    time_gaps: bool = False
    """Read the times between a history's events, never the target's (echomamba4rec, mamba4rec,
    sasrec, hstu)."""
    scan: str = "auto"
    """Selective scan: auto, pallas_gpu, pallas_tpu, tiled, chunked, associative, sequential."""
    plugin: Annotated[str | None, Fact.RESUMABLE] = None
    """A module of your own, or a .py file, that registers models, data sets, losses or metrics;
    with --help it shows the own options of --model."""


@dataclass(frozen=True)
class TrainingFlags:
    """How to learn it."""

    init_from: str | None = None
    """Run folder whose best weights are the initial ones; those of items are matched by item id."""
    freeze: str | None = None
    """Parameters that are not trained, by pattern: 'item_embedding' or 'layers.0.*,norm*'."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of activations. With bf16 parameters, optimiser, time steps, decays, states, softmax and loss
    stay float32."""
    objective: str | None = None
    """What one row predicts: prefixes (the item after a prefix), all-positions (after each position
    of one pass: models that read no later item) or cloze (hidden items) (None: the model's own)."""
    loss: str = "softmax"
    """Training loss: exact cross entropy over all items (softmax), estimated from drawn
    items (sampled-softmax, corrected by logQ), or (generalised) binary cross entropy or Bayesian
    personalised ranking against drawn items (gbce, bce, bpr)."""
    negatives: Positive | None = None
    """Items drawn against each target (None: 256; bce and bpr 1)."""
    negative_sampling: Literal["uniform", "popularity", "in-batch"] | None = None
    """How they are drawn: uniformly from all items (None), by how often each is a training target,
    or from the targets of the batch."""
    gbce_t: Annotated[float, Meta(ge=0, le=1)] | None = None
    """gBCE's calibration: 0 is bce, 1 leaves no overconfidence (None: 0.75, as published)."""
    label_smoothing: Share = 0.0
    """Share of each target that is spread evenly over all items (softmax)."""
    learning_rate: PositiveNumber = 1e-3
    """Adam's learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up the rate stays, or falls along a cosine to 0 at the end of --epochs or
    --max-steps; training then goes on to that end."""
    warmup: Share = 0.0
    """Share of all these steps in which the rate rises from 0."""
    warmup_steps: NotNegative = 0
    """The warm-up as a number of steps."""
    decay_steps: Positive | None = None
    """Steps after the warm-up in which it falls to 0 along a cosine, and stays there (None: as the
    schedule says)."""
    weight_decay: Share = 0.0
    """Weight decay of matrices, as in AdamW: a step takes this share times the rate off them."""
    clip_norm: PositiveNumber | None = None
    """Largest norm of the gradient over all parameters, to which it is clipped (None: no limit)."""
    item_optimizer: Literal["adam", "rowwise"] = "adam"
    """Optimiser of the item table: Adam, with two numbers per weight; or one number per row (the
    running root mean square of its gradient, no momentum), for tables that fill the memory."""
    batch_size: Positive | None = None
    """Rows a step (None: 2048 prefixes, 256 on synthetic; 128 sequences, 32 on synthetic)."""
    microbatch: Positive | None = None
    """Examples held in memory at once; gradients are summed (None: chosen by device)."""
    pack: bool = False
    """Compute several short histories in one row instead of padding (mamba4rec, all-positions)."""
    epochs: Annotated[Positive, Fact.RESUMABLE] = 200
    """Largest number of passes over the training examples."""
    max_steps: Annotated[Positive | None, Fact.RESUMABLE] = None
    """Largest number of steps (None: no limit)."""
    patience: Annotated[Positive, Fact.RESUMABLE] = 10
    """Stop after this many validations without a better NDCG@10, but not before the end of
    --decay-steps."""
    eval_every: Positive = 1
    """Epochs between validations."""
    seed: Annotated[Seed, NotInSuites("list the seeds under `seeds`")] = 0
    """Seed of initial values, dropout and data order."""
    seeds: Annotated[Positive, NotInSuites("list the seeds under `seeds`")] = 1
    """Train this many seeds, from --seed on, as one program; each leaves its own run folder,
    seed-N, in --run-dir."""


@dataclass(frozen=True)
class EvaluationFlags:
    """How to evaluate it."""

    exclude_seen: bool = False
    """Leave items of the history out of the ranking (but never the target)."""
    eval_batch_size: Annotated[Positive | None, Fact.RESUMABLE] = None
    """Histories ranked at once (None: 64 on a CPU, 1024 elsewhere)."""


@dataclass(frozen=True)
class RunFlags:
    """Where it runs and what it leaves."""

    run_dir: Annotated[str | None, Fact.RESUMABLE, NotInSuites("use --out")] = None
    """The run folder (None: runs/DATASET-MODEL-VARIANT-seedN, or -seedsN for several)."""
    resume: Annotated[bool, Fact.RESUMABLE, RESUMED_ANYWAY] = False
    """Resume from the newest checkpoint in --run-dir; flags that are not given are those of the
    run."""
    item_shards: Annotated[Positive, Fact.RESUMABLE] = 1
    """Parts of the item table, its optimiser state and the softmax, each on devices of its own."""
    sequence_shards: Annotated[Positive, Fact.RESUMABLE] = 1
    """Parts of each history, each on a device of its own (echomamba4rec and mamba4rec)."""
    parallel: Annotated[Literal["shard_map", "pmap"], Fact.RESUMABLE] = "shard_map"
    """How the step is mapped over several devices (pmap: only those of one host)."""
    coordinator: Annotated[str | None, Fact.RESUMABLE, ONE_PROCESS] = None
    """Address and port of the first of several processes, HOST:PORT (None: found without help on
    Slurm, Open MPI, Kubernetes jobs and Cloud TPU, or there is one process)."""
    num_processes: Annotated[Positive | None, Fact.RESUMABLE, ONE_PROCESS] = None
    """How many processes train together (with --coordinator)."""
    process_id: Annotated[int | None, Fact.RESUMABLE, ONE_PROCESS] = None
    """This process's number among them, from 0 (with --coordinator)."""
    join_seconds: Annotated[Positive | None, Fact.RESUMABLE, ONE_PROCESS] = None
    """How long the first process waits for the last (None: 50 with --coordinator, else 300)."""
    checkpoint_every: Annotated[Positive, Fact.RESUMABLE] = 500
    """Steps between checkpoints inside an epoch (one is written at each validation anyway)."""
    data_workers: Annotated[NotNegative, Fact.RESUMABLE] = 0
    """Processes that prepare batches (0: background threads of this process)."""
    profile: Annotated[Positive | None, Fact.RESUMABLE] = None
    """Trace this many steps into RUN/profile and show how their time was spent: input, compute,
    collectives or host (give it again to a resumed run)."""
    tensorboard: Annotated[bool, Fact.RESUMABLE] = False
    """Write metrics for TensorBoard too (pip install 'echojax[tensorboard]')."""
    wandb: Annotated[bool, Fact.RESUMABLE] = False
    """Send metrics to Weights & Biases too (pip install 'echojax[wandb]')."""


SECTIONS = (DataFlags, ModelFlags, TrainingFlags, EvaluationFlags, RunFlags)
