"""How long answers take: a history encoded, one event taken in, the catalogue searched."""
