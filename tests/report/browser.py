"""Chromium for tests: the system's; installed where CI runs as root on Debian; else the test is skipped, never in CI."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-dev-shm-usage",
)  # fmt: skip


def executable() -> str:
    in_ci = os.environ.get("CI", "").lower() in ("1", "true")
    if in_ci and not _found() and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], check=True)
    found = _found()
    if found is None and in_ci:
        pytest.fail("CI needs Chromium: apt-get install chromium")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return found


def _found() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def dom(url: str, profile: os.PathLike[str], *, live: bool = False) -> str:
    """The page's HTML after its scripts have run; a live page never ends to load: it gets some seconds."""
    wait = "--timeout=5000" if live else "--virtual-time-budget=5000"
    command = [executable(), *FLAGS, f"--user-data-dir={profile}", wait, "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
