"""The examples that need a package beyond the project's own run where it is installed; the others are in test_docs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_trl_example_ends_with_the_best_trials_model(tmp_path):
    pytest.importorskip("trl")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "trl_sft.py")],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[-1].split()
    assert float(line[1]) == pytest.approx(float(line[-1]), rel=1e-5)
