"""What the tests of a backend share: W&B's real client with a server on loopback."""

import sys

import pytest


@pytest.fixture(scope="module")
def wandb_client():
    """The client; it keeps the settings that it has read first, and forgets them after a file's tests."""
    client = pytest.importorskip("wandb", reason="W&B's client is not installed")
    pytest.importorskip("sweeps", reason="W&B's search code, which the server uses, is not installed")
    yield client
    sys.modules["wandb"].teardown()


@pytest.fixture
def served_wandb(wandb_client, monkeypatch, tmp_path):
    """A server of its own for each test."""
    from wandb_server import served

    with served(monkeypatch, tmp_path / "home") as started:
        yield started
