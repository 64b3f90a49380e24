"""Killing one of two ranks: the job ends within seconds, and torchrun's restart goes on with the trial."""

import sys
import threading
import time
from pathlib import Path

import psutil
from soak import rounds

sys.path.insert(0, str(Path(__file__).parent.parent / "runners"))
from launched import LIMIT, notes, torchrun

SCRIPT = Path(__file__).parent.parent / "runners" / "ranks_script.py"
KILLS = rounds(2, 20)
END_LIMIT = 10.0  # seconds, the promise


def watch(folder, ends):
    """When the ranks of each start were seen to be gone."""
    while len(ends) < KILLS:
        starts = [[n for n in notes(folder, rank) if "pid" in n] for rank in range(2)]
        for one, other in zip(*starts, strict=False):
            if one["restart"] not in ends and not any(psutil.pid_exists(n["pid"]) for n in (one, other)):
                ends[one["restart"]] = time.time()
        time.sleep(0.1)


def test_the_group_ends_in_time_and_every_trial_is_completed(tmp_path):
    ends: dict[int, float] = {}
    threading.Thread(target=watch, args=(tmp_path, ends), daemon=True).start()
    with torchrun(SCRIPT, "kills", tmp_path, KILLS, restarts=KILLS) as job:
        output, _ = job.communicate(timeout=LIMIT * KILLS)
    assert job.returncode == 0, output
    both = [notes(tmp_path, rank) for rank in range(2)]
    died = {n["dies"]: n["time"] for rank in both for n in rank if "dies" in n}
    assert sorted(died) == list(range(KILLS))
    late = {kill: ends[kill] - died[kill] for kill in died if ends[kill] - died[kill] > END_LIMIT}
    assert not late
    for kill in range(KILLS):
        assert f"rank {kill % 2} (process" in output
    assert both[0][-1]["states"] == both[1][-1]["states"] == ["COMPLETE"] * (KILLS + 1)
    print("seconds from kill to end:", sorted(round(ends[k] - died[k], 2) for k in died))
