"""A rank that is cut off while native code runs, which no signal interrupts."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, hashlib, os, sys, threading
from tunesmith.runners import part
from tunesmith.testing.runners import Driver
from tunesmith.trial import Assignment, LiveTrial

class Alone:
    def abort(self):
        pass

def stuck(trial):
    lock, native = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    started.set()
    native.pthread_mutex_lock(lock)
    native.pthread_mutex_lock(lock)

def at_work(trial):
    started.set()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 8_000_000)

def waits_for_a_program(trial):
    started.set()
    os.system(f"{sys.executable} -c 'sum(range(120_000_000))'")

part.IDLE_LIMIT = 1.0
started = threading.Event()
here = part.Part(Alone())
threading.Thread(target=lambda: started.wait() and here.cut("rank 0 has failed"), daemon=True).start()
outcome = here.run(globals()[sys.argv[1]], LiveTrial(Assignment(0), Driver()), n_objectives=1)
print(outcome.reason, here.was_cut)
"""


@pytest.fixture
def cut_off(tmp_path):
    """A function that cuts off a task of the script's in a process of its own: the process when it has ended."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    return lambda task: subprocess.run(
        [sys.executable, "script.py", task], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )


def test_code_that_is_stuck_ends_its_process_with_the_stack(cut_off):
    done = cut_off("stuck")
    assert done.returncode == 1
    assert "a trial must be left within 1 s of its end on another rank (rank 0 has failed)" in done.stderr
    assert "in stuck" in done.stderr


@pytest.mark.parametrize("task", ["at_work", "waits_for_a_program"])
def test_code_that_is_at_work_may_come_to_its_end(cut_off, task):
    done = cut_off(task)
    assert (done.returncode, done.stdout) == (0, "rank 0 has failed True\n")
