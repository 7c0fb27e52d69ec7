"""What a model has learned: its filters, its dt and memory, the attribution to past events."""

from echojax.analysis.analyse import Analysis, analyse, write_analysis

__all__ = ["Analysis", "analyse", "write_analysis"]
