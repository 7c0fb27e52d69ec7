"""One training run from configuration to report, in named stages."""

import dataclasses
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from echojax.config import Config, check
from echojax.data import DATASETS, Columns, Dataset, Split, batches, load_dataset
from echojax.errors import UserError, unknown_name
from echojax.files import write_json
from echojax.losses import softmax_chunk
from echojax.models import build_model, check_names
from echojax.training.checkpoints import Checkpoints
from echojax.training.interrupts import deferred_interrupts
from echojax.training.loop import Trainer
from echojax.training.metric_log import MetricLog
from echojax.training.progress import Display, Standing
from echojax.training.run_folder import claim, default_run_dir, write_start
from echojax.training.state import TrainState, create_state
from echojax.training.step import make_train_step
