import gzip

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Keep every test away from the user's data and cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("ECHOJAX_DATA", raising=False)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes text or bytes, as gzip where the name says so."""

    def write_file(name: str, content: str | bytes):
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write_file
