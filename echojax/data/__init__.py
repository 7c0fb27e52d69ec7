"""Interaction data: from files or names to prepared data sets, splits and batches."""

from echojax.data.batching import Batches, StackedBatches, iterate
from echojax.data.dataset import Dataset, Preparation
from echojax.data.description import description_of
from echojax.data.examples import Examples, Windows, windows
from echojax.data.item_vectors import ItemVectors
from echojax.data.layouts import Columns
from echojax.data.load import load_dataset
from echojax.data.sources import DATASETS, is_name, register_dataset
from echojax.data.splits import Split, cold_items_split, global_time_split, leave_one_out
from echojax.data.titles import item_titles

__all__ = [
    "DATASETS",
    "Batches",
    "Columns",
    "Dataset",
    "Examples",
    "ItemVectors",
    "Preparation",
    "Split",
    "StackedBatches",
    "Windows",
    "cold_items_split",
    "description_of",
    "global_time_split",
    "is_name",
    "item_titles",
    "iterate",
    "leave_one_out",
    "load_dataset",
    "register_dataset",
    "windows",
]
