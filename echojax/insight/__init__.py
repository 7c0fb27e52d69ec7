"""What a model learned: filters, time steps, memory, and the influence of past events."""

from echojax.insight.record import write_insight

__all__ = ["write_insight"]
