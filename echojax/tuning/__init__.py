"""Search of a model's flags by the validation score: spaces, studies, and their pages."""

import importlib.util

from echojax.errors import UserError

if importlib.util.find_spec("optuna") is None:
    raise UserError("optuna is missing: pip install 'echojax[tune]'")
