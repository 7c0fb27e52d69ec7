"""EchoMamba4Rec in pure JAX: data, model, training and evaluation of sequential recommenders.

Dimension letters, used as suffixes of array names (``x_BxLxD``) everywhere:

    B  batch            L  length (time)      D  hidden size (d_model)
    E  inner channels   N  d_state            V  items (0 is padding)
    K  chunk or top-k   M  examples           U  users            T  all interactions
"""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echojax.serving import Recommender as Recommender

__version__ = "0.1.0"

# As a library echojax prints nothing, warnings neither, unless its caller configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import ``Recommender`` when it is first asked for: ``import echojax`` itself stays cheap."""
    if name == "Recommender":
        from echojax.serving import Recommender

        return Recommender
    raise AttributeError(f"module 'echojax' has no attribute {name!r}")
