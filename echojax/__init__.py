"""EchoMamba4Rec in pure JAX: data, model, training and evaluation of sequential recommenders.

Dimension letters, used as suffixes of array names (``x_BxLxD``) everywhere:

    B  batch            L  length (time)      D  hidden size (d_model)
    E  inner channels   N  d_state            V  items (0 is padding)
    K  chunk or top-k   M  examples           U  users            T  all interactions
"""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from echojax.errors import UserError

if TYPE_CHECKING:
    from echojax.api import Run, compare, train
    from echojax.data import Dataset, register_dataset
    from echojax.evaluation.metrics import register_metric
    from echojax.losses import register_loss
    from echojax.models import register_model
    from echojax.serving import Recommender
    from echojax.tuning.python import tune

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Recommender",
    "Run",
    "UserError",
    "compare",
    "register_dataset",
    "register_loss",
    "register_metric",
    "register_model",
    "train",
    "tune",
]

# As a library, echojax prints nothing, not even warnings, unless its caller configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_MODULES = {
    "Dataset": "echojax.data",
    "Recommender": "echojax.serving",
    "Run": "echojax.api",
    "compare": "echojax.api",
    "register_dataset": "echojax.data",
    "register_loss": "echojax.losses",
    "register_metric": "echojax.evaluation.metrics",
    "register_model": "echojax.models",
    "train": "echojax.api",
    "tune": "echojax.tuning.python",
}


# What Python does where the root logger has no handler, and the calls that hold it, of all threads.
_WITHOUT, _HELD, _LOCK = logging.lastResort or logging.NullHandler(), list[object](), Lock()


@contextmanager
def keep_root_handlers() -> Iterator[None]:
    """Keep the root logger as it is: absl, which orbax logs by, gives it a handler if it has none.

    That would print all messages of loggers that the caller has set to INFO.
    """
    call = object()
    with _LOCK:
        _HELD.append(call)
        if not logging.root.handlers:
            logging.root.addHandler(_WITHOUT)
    try:
        yield
    finally:
        with _LOCK:
            _HELD.remove(call)
            if not _HELD:
                logging.root.removeHandler(_WITHOUT)


def __getattr__(name: str) -> Any:
    """Import an attribute's module when it is first used, so that ``import echojax`` is fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'echojax' has no attribute {name!r}")
    with keep_root_handlers():
        return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
