"""Interaction data: sources, preparation, splits, batches. Knows nothing of models."""

from echojax.data.batching import Batches, StackedBatches, batches, iterate
from echojax.data.dataset import Dataset
from echojax.data.examples import Examples
from echojax.data.formats import FORMATS, Columns
from echojax.data.load import load_dataset
from echojax.data.sources import DATASETS, Source
from echojax.data.splits import Split, global_time_split, leave_one_out
from echojax.data.titles import item_titles
from echojax.data.windows import Windows, windows

__all__ = [
    "DATASETS",
    "FORMATS",
    "Batches",
    "Columns",
    "Dataset",
    "Examples",
    "Source",
    "Split",
    "StackedBatches",
    "Windows",
    "batches",
    "global_time_split",
    "item_titles",
    "iterate",
    "leave_one_out",
    "load_dataset",
    "windows",
]
