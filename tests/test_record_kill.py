"""The record survives kill -9 at any moment. TUNESMITH_KILLS=1000 runs the long form."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed():
    kills = int(os.environ.get("TUNESMITH_KILLS", "100"))
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_record.py")), "--kills", str(kills)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + 5 * kills,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counts = json.loads(ran.stdout)
    assert counts["lost"] == []
    assert counts["kills"] == kills
    assert counts["steps"] > kills
