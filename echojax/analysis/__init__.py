"""Analysis of a trained model: its filters, its dt and memory, and attribution to past events."""

from echojax.analysis.analyse import analyse, write_analysis

__all__ = ["analyse", "write_analysis"]
