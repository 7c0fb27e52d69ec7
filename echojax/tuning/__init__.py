"""Search of a model's flags by the validation score: spaces, studies, and their pages."""
