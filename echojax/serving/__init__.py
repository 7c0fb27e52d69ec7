"""Serving of trained models: recommendations by the data's item ids, and streams of events."""

from echojax.serving.export import export_run
from echojax.serving.recommender import Recommendation, Recommender
from echojax.serving.streaming import Stream, StreamState

__all__ = ["Recommendation", "Recommender", "Stream", "StreamState", "export_run"]
