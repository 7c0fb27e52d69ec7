"""EchoMamba4Rec in pure JAX: data, model, training and evaluation of sequential recommenders.

Dimension letters, used as suffixes of array names (``x_BxLxD``) everywhere:

    B  batch            L  length (time)      D  model width
    E  inner channels   N  state size         V  items in the catalogue (0 is padding)
    K  chunk or top-k   M  examples           U  users            T  all interactions
"""

__version__ = "0.1.0"
