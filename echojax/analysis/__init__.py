"""Analysis of a trained model: its filters, its dt and memory, and attribution to past events."""

from echojax.analysis.analyse import Analysis, analyse, write_analysis

__all__ = ["Analysis", "analyse", "write_analysis"]
