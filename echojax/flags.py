"""Flags that several modules share: fields with type, limits, help and facts."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

FINITE = 1e300
Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
# The size of an array's axis; a larger one can only be a mistake.
Size = Annotated[int, Meta(ge=1), Meta(le=2**20)]
Seed = Annotated[int, Meta(ge=0), Meta(lt=2**32)]  # JAX ignores further bits
Share = Annotated[float, Meta(ge=0, lt=1)]
PositiveNumber = Annotated[float, Meta(gt=0, le=FINITE)]
NotNegativeNumber = Annotated[float, Meta(ge=0), Meta(le=FINITE)]
MissingIds = Literal["refuse", "drop", "keep"]
Duplicates = Literal["keep", "first", "last"]
TimePrecision = Literal["exact", "float32"]


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
class SourceFlags:
    """Which data are used."""

    dataset: str = "synthetic"
    """Name of the data set: synthetic, ml-100k, ml-1m, amazon-beauty, amazon-video-games."""
    data_path: Annotated[str | None, Fact.RESUMABLE] = None
    """File of your own, used instead of --dataset: Parquet, Arrow (Feather), CSV/TSV, .inter, JSON
    lines, ratings.dat, u.data, `user item` pairs or one history per line. Text may be compressed as
    .gz. A pattern ('log-*.csv') or a folder stands for several files."""


@dataclass(frozen=True)
class ReadingFlags:
    """How data are read and filtered."""

    data_dir: Annotated[str | None, Fact.RESUMABLE, NotInSuites("use --data-dir")] = None
    """Folder with the files of the data sets (None: $ECHOJAX_DATA if it is set, otherwise the
    user's cache)."""
    data_format: str | None = None
    """Format of the file, needed only if it is not recognised: inter, csv, tsv, jsonl,
    ratings.dat, u.data, ratings.csv, pairs, histories."""
    columns: str | None = None
    """Names of all columns of a file without a header, such as user,time,item,_. The columns user,
    item and time are used."""
    user_column: str | None = None
    """Name of the user column, if the columns of the file have names."""
    item_column: str | None = None
    """Name of the item column."""
    time_column: str | None = None
    """Name of the time column. Without one, events are in the order of the file."""
    time_format: str | None = None
    """Format of dates that are not ISO 8601, such as '%d.%m.%Y %H:%M'."""
    missing_ids: MissingIds = "refuse"
    """What to do with rows whose user or item is empty, NA, NULL, NaN or similar: stop with an
    error, leave the rows out, or use the word as an id."""
    k_core: NotNegative = 5
    """Keep only users and items with at least this many interactions. The filter is repeated until
    nothing changes."""
    duplicates: Duplicates = "keep"
    """Which of a user's repeated interactions with one item to keep: all of them, the first or the
    last."""
    time_precision: TimePrecision = "exact"
    """Order events by their exact times, or by times rounded to float32 as in RecBole. Rounded
    epoch seconds are 128 apart, 64 before 2004, and ties keep the order of the rows."""
    ties: str = "file"
    """Order of a user's events at the same time: that of the file (file), or random
    (random:SEED)."""


# A dataclass has the fields of its last base first.
@dataclass(frozen=True)
class DataFlags(ReadingFlags, SourceFlags):
    """The data, how they are filtered and how they are split."""

    items_path: str | None = None
    """Table of the items with their titles (CSV, .item, JSON lines, Parquet). The titles are shown
    with recommendations."""
    title_column: str | None = None
    """Name of the title column of --items-path. The values of several columns (name,brand) are
    joined."""
    split: Literal["leave-one-out", "global-time", "cold-items"] = "leave-one-out"
    """How the data are split. leave-one-out tests on each user's last item and validates on the one
    before it. global-time cuts at two times: it trains on the first 80 % of all events, validates
    on the next 10 % and tests on the last 10 %. cold-items is leave-one-out, and also tests on a
    tenth of the items, which training leaves out."""
    item_vectors: str | None = None
    """File with a vector for each item id, such as embeddings of texts. With vectors, items that
    are not in training are ranked too."""


@dataclass(frozen=True)
class ModelFlags:
    """The model, its sizes and its variants."""

    model: str = "echomamba4rec"
    """Name of the model: echomamba4rec, mamba4rec, sasrec, esasrec, hstu, bert4rec, gru4rec, narm,
    caser, fmlp-rec; popularity, markov, item-knn, lagged-count."""
    variant: Literal["echojax", "causal", "official"] = "echojax"
    """Variant of EchoMamba4Rec: as corrected in echojax, the same with a causal filter (one pass
    trains on all prefixes of a history), or exactly the authors' function."""
    mask_padding: bool | None = None
    """Set padding to zero before and after the filter (None: as in the variant)."""
    reverse_from_last: bool | None = None
    """Start the backward scan at the last item, not at the padding (None: as in the variant)."""
    join_both_ends: bool | None = None
    """Read the backward Mamba at the first item, where it has seen the whole history (None: as in
    the variant)."""
    time_step_init: bool | None = None
    """Initialise the time steps between 0.001 and 0.1, not all at 0.69 (None: as in the
    variant)."""
    plain_depth: bool | None = None
    """Give k layers k Mambas in each direction, not k * k (None: as in the variant)."""
    causal_filter: bool | None = None
    """Make the filter causal: no position reads a later one (None: as in the variant)."""
    filter: bool = True
    """Use EchoMamba4Rec's FFT filter (False for an ablation)."""
    backward: bool = True
    """Use EchoMamba4Rec's backward Mamba, which reads from the last item to the first."""
    glu: bool = True
    """Use EchoMamba4Rec's gated linear unit."""
    d_model: ModelSize = None
    """D, the size of embeddings and hidden states. For None, here and below, the size is that of
    the model's paper."""
    layers: ModelSize = None
    """Number of layers."""
    heads: ModelSize = None
    """Number of attention heads."""
    hidden_size: ModelSize = None
    """Size of the recurrent state."""
    window: ModelSize = None
    """Number of newest items that a convolution reads."""
    d_state: ModelSize = None
    """N, the number of states for each channel of a Mamba."""
    d_conv: ModelSize = None
    """Width of the convolution in a Mamba."""
    expand: ModelSize = None
    """Number of inner channels of a Mamba, as a multiple of d_model."""
    mask_rate: Annotated[Annotated[float, Meta(gt=0, lt=1)] | None, Fact.MODEL_SIZE] = None
    """Share of a sequence's items that the cloze objective hides."""
    dropout: Annotated[Share | None, Fact.MODEL_SIZE] = None
    """Dropout rate."""
    item_vectors_use: Literal["add", "replace"] = "add"
    """Whether the learned linear map of the vectors is added to the id embedding or replaces it."""
    lags: ModelSize = None
    """J of the lagged count, the number of newest items and of next events (None: chosen on
    validation)."""
    damping: Annotated[Annotated[float, Meta(ge=0, le=1)] | None, Fact.MODEL_SIZE] = None
    """a of the lagged count, which says how strongly the scores of frequent items are reduced
    (None: chosen on validation)."""
    max_len: Size | None = None
    """Number of newest items that the model reads (None: the data set's default, such as 200 for
    ml-1m)."""
    time_gaps: bool = False
    """Read the times between a history's events, but never the target's time (echomamba4rec,
    mamba4rec, sasrec, hstu)."""
    scan: str = "auto"
    """Implementation of the selective scan: auto, pallas_gpu, pallas_tpu, tiled, chunked,
    associative, sequential, reference."""
    plugin: Annotated[str | None, Fact.RESUMABLE] = None
    """Module or .py file of your own that registers models, data sets, losses or metrics. With
    --help, the options of that --model are shown too."""


@dataclass(frozen=True)
class TrainingFlags:
    """The training."""

    init_from: str | None = None
    """Run folder whose best weights are the initial weights. Those of items are matched by item
    id."""
    freeze: str | None = None
    """Patterns of the parameters that are not trained, such as 'item_embedding' or
    'layers.0.*,norm*'."""
    precision: Literal["float32", "bf16"] = "float32"
    """Precision of the activations. With bf16, parameters, optimiser, time steps, decays, states,
    softmax and loss stay float32."""
    objective: str | None = None
    """What a row predicts: the item after a prefix (prefixes), the item after each position
    (all-positions, for models that read no later item), or hidden items (cloze) (None: the model's
    own)."""
    loss: str = "softmax"
    """Training loss. softmax is the exact cross entropy over all items; sampled-softmax estimates
    it from drawn items, corrected by logQ. gbce and bce are generalised and plain binary cross
    entropy, and bpr is Bayesian personalised ranking, against drawn items."""
    negatives: Positive | None = None
    """Number of items that are drawn for each target (None: 256, but 1 for bce and bpr)."""
    negative_sampling: Literal["uniform", "popularity", "in-batch"] | None = None
    """How negatives are drawn: uniformly from all items (as for None), by how often each item is a
    training target, or from the targets of the batch."""
    gbce_t: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Calibration of gBCE. 0 is the same as bce, and 1 removes all overconfidence (None: 0.75, as
    published)."""
    label_smoothing: Share = 0.0
    """Share of each target that is spread evenly over all items, for the softmax loss."""
    learning_rate: PositiveNumber = 1e-3
    """Adam's learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up. It stays constant, or falls along a cosine to 0 at the end
    of --epochs or --max-steps. With a cosine, training continues to that end."""
    warmup: Share = 0.0
    """Share of all steps in which the learning rate rises from 0."""
    warmup_steps: NotNegative = 0
    """Number of steps in which the learning rate rises from 0."""
    decay_steps: Positive | None = None
    """Number of steps after the warm-up in which the learning rate falls to 0 along a cosine. It
    then stays 0 (None: as in --schedule)."""
    weight_decay: Share = 0.0
    """Weight decay of matrices, as in AdamW: a step reduces them by this share times the learning
    rate."""
    clip_norm: PositiveNumber | None = None
    """Maximum norm of the gradient of all parameters; a larger gradient is clipped to it (None: no
    limit)."""
    item_optimizer: Literal["adam", "rowwise"] = "adam"
    """Optimiser of the item table. Adam keeps two numbers for each weight. rowwise keeps one for
    each row (the running root mean square of its gradient, without momentum), for tables that fill
    the memory."""
    batch_size: Positive | None = None
    """Number of rows in a step (None: 2048 prefixes or 128 sequences, but 256 or 32 on
    synthetic)."""
    microbatch: Annotated[Positive | None, Fact.RESUMABLE] = None
    """Number of rows that are computed at once. Gradients are summed over a step (None: all
    rows of a device; with --pack or on a CPU, chosen by the lengths of the histories)."""
    pack: bool = False
    """Put several short histories into one row instead of padding (mamba4rec with
    all-positions)."""
    epochs: Annotated[Positive, Fact.RESUMABLE] = 200
    """Maximum number of passes over the training examples."""
    max_steps: Annotated[Positive | None, Fact.RESUMABLE] = None
    """Maximum number of steps (None: no limit)."""
    patience: Annotated[Positive, Fact.RESUMABLE] = 10
    """Stop after this many validations without a better NDCG@10, but not before the end of
    --decay-steps."""
    eval_every: Positive = 1
    """Number of epochs between validations."""
    seed: Annotated[Seed, NotInSuites("list the seeds under `seeds`")] = 0
    """Seed of the initial values, the dropout and the order of the data."""
    seeds: Annotated[Positive, NotInSuites("list the seeds under `seeds`")] = 1
    """Train this many seeds, from --seed on, as one program. Each has its own run folder, seed-N,
    in --run-dir."""


@dataclass(frozen=True)
class EvaluationFlags:
    """The evaluation."""

    exclude_seen: bool = False
    """Leave the items of the history out of the ranking, but never the target."""
    eval_batch_size: Annotated[Positive | None, Fact.RESUMABLE] = None
    """Number of histories that are ranked at once (None: 64 on a CPU, 1024 elsewhere)."""


@dataclass(frozen=True)
class RunFlags:
    """The run folder, the devices and the logs."""

    run_dir: Annotated[str | None, Fact.RESUMABLE, NotInSuites("use --out")] = None
    """The run folder (None: runs/DATASET-MODEL-VARIANT-seedN, or -seedsN for several seeds)."""
    resume: Annotated[bool, Fact.RESUMABLE, RESUMED_ANYWAY] = False
    """Resume from the newest checkpoint in --run-dir. Flags that are not given are those of the
    run."""
    item_shards: Annotated[Positive, Fact.RESUMABLE] = 1
    """Number of parts of the item table, its optimiser state and the softmax. Each part has devices
    of its own."""
    sequence_shards: Annotated[Positive, Fact.RESUMABLE] = 1
    """Number of parts of each history. Each part has a device of its own (echomamba4rec and
    mamba4rec)."""
    parallel: Annotated[Literal["shard_map", "pmap"], Fact.RESUMABLE] = "shard_map"
    """How a step is mapped over several devices. pmap uses only those of one host."""
    coordinator: Annotated[str | None, Fact.RESUMABLE, ONE_PROCESS] = None
    """Address and port of the first of several processes, HOST:PORT (None: found automatically on
    Slurm, Open MPI, Kubernetes jobs and Cloud TPU; elsewhere there is one process)."""
    num_processes: Annotated[Positive | None, Fact.RESUMABLE, ONE_PROCESS] = None
    """Number of processes that train together (with --coordinator)."""
    process_id: Annotated[int | None, Fact.RESUMABLE, ONE_PROCESS] = None
    """Number of this process among them, from 0 (with --coordinator)."""
    join_seconds: Annotated[Positive | None, Fact.RESUMABLE, ONE_PROCESS] = None
    """Seconds that the first process waits for the last (None: 50 with --coordinator, otherwise
    300)."""
    checkpoint_every: Annotated[Positive, Fact.RESUMABLE] = 500
    """Number of steps between checkpoints inside an epoch. Each validation also writes one."""
    data_workers: Annotated[NotNegative, Fact.RESUMABLE] = 0
    """Number of processes that prepare batches (0: background threads of this process)."""
    profile: Annotated[Positive | None, Fact.RESUMABLE] = None
    """Trace this many steps into RUN/profile and show how their time was spent: input, compute,
    collectives or host. A resumed run needs the flag again."""
    tensorboard: Annotated[bool, Fact.RESUMABLE] = False
    """Write metrics for TensorBoard too (pip install 'echojax[tensorboard]')."""
    wandb: Annotated[bool, Fact.RESUMABLE] = False
    """Send metrics to Weights & Biases too (pip install 'echojax[wandb]')."""


SECTIONS = (DataFlags, ModelFlags, TrainingFlags, EvaluationFlags, RunFlags)


@dataclass(frozen=True)
class SearchFlags:
    """What a search tries."""

    trials: int = 20
    """How many settings are tried, including those of earlier starts."""
    generation: int = 4
    """How many are proposed and trained together; half of them stop after a quarter of the epochs,
    and half of the rest after half of the epochs."""
    space: str | None = None
    """A TOML file with what is searched, [space] (None: the data set's recipes, or the default:
    learning rate, dropout, weight decay)."""
    out: Path | None = None
    """Folder of the study: trials, page and best.toml, a recipe (None:
    runs/tune-DATASET-MODEL-seedN)."""


@dataclass(frozen=True)
class ReproduceFlags:
    """Run a suite of data sets x models x seeds and write one page that compares them.

    The same command again skips what is finished and resumes what was interrupted.
    """

    suite: str | None = None
    """A TOML file, or the name of an included suite (None: ml-100k)."""
    quick: bool = False
    """The suite named quick: minutes on two cores, on generated data and a sample of ml-100k."""
    out: Path | None = None
    """Folder of runs, results and page (None: runs/SUITE)."""
    data_dir: str | None = None
    """Folder that holds the data sets' files (else $ECHOJAX_DATA, else the user's cache)."""
    only: tuple[str, ...] = ()
    """Run only these variants of the suite; the page shows all that are finished."""
    tune: Positive | None = None
    """Search the flags of each learned variant first, with this many trials over the space of the
    data set's recipes; flags that the suite sets are not searched."""
    report_only: bool = False
    """Write the page of the existing results again, and run nothing."""


@dataclass(frozen=True)
class RunFolderFlags:
    """A run, and where its data are."""

    run_dir: Path
    """The run folder."""
    data_dir: str | None = None
    """Folder that holds the data sets' files now (None: where the run found them)."""
    data_path: str | None = None
    """Where the run's own file is now (None: where it was)."""
