"""W&B and SigOpt with no route out but loopback: in a network namespace of its own, which has nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("wandb", "sweeps", "sigopt", "sigoptlite"):
    pytest.importorskip(package, reason=f"{package} is not installed")

TESTS = [
    "test_wandb.py::test_a_sweep_proposes_and_each_trial_is_one_run_of_it",
    "test_sigopt_api.py::test_a_search_makes_its_project_and_experiment_and_sends_each_trial_once",
    "test_sigopt.py::test_a_metric_that_a_trial_lacks_fails_for_sigopt_with_a_warning",
]
# a route out is refused there, and loopback works
SCRIPT = """
set -e
ip link set lo up
if {python} -c 'import socket; socket.create_connection(("192.0.2.1", 80), timeout=1)' 2> /dev/null; then exit 9; fi
exec {python} -m pytest -p no:cacheprovider {tests}
"""
# as this user, else as root where that needs no password
WAYS = (["unshare", "-rn"], ["sudo", "-n", "--preserve-env", "unshare", "-n"])


def _way_in() -> tuple[list[str], str]:
    """The command that enters such a namespace, or why there can be none here."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return [], "unshare and ip are not installed"
    reasons = []
    for way in WAYS:
        if shutil.which(way[0]) is None:
            continue
        done = subprocess.run([*way, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return way, ""
        reasons.append(done.stderr.strip())
    return [], f"a network namespace is refused: {'; '.join(reasons)}"


def test_both_services_work_with_no_route_out_but_loopback():
    way, reason = _way_in()
    if not way:
        assert "CI" not in os.environ, f"this test must not be skipped in CI: {reason}"
        pytest.skip(reason)
    here = Path(__file__).parent
    script = SCRIPT.format(python=sys.executable, tests=" ".join(str(here / t) for t in TESTS))
    done = subprocess.run([*way, "sh", "-c", script], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert f"{len(TESTS)} passed" in done.stdout
