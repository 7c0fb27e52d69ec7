import pytest


@pytest.fixture(scope="session")
def ring_run(finished):
    """Return the folder of a run on 60 users who walk around a ring of 30 items."""
    return finished[0]
