"""The trained model at work: recommendations by the data's own item ids."""

from echojax.serving.recommender import Recommendation, Recommender

__all__ = ["Recommendation", "Recommender"]
