import pytest


@pytest.fixture(autouse=True)
def _float64(x64):
    """Compute in float64, so that differences are sharp and each program is compiled once."""
