"""Tasks for worker processes that go wrong in every way."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time


class LoadsNowhere:
    """Can be pickled, and cannot be loaded."""

    def __call__(self, trial):
        return 0.0

    def __reduce__(self):
        return (_refuse, ())


def _refuse():
    raise ImportError("no such package here")


class Untold(Exception):
    """Can be pickled, and not loaded, as many exceptions with arguments of their own."""

    def __init__(self, name, code):
        super().__init__(name)
        self.code = code


def keep_an_exception(trial):
    trial.set_user_attr("error", Untold("name", 1))
    return 0.0


def report_pid(trial):
    trial.set_user_attr("pid", os.getpid())
    return 0.0


def wait_to_be_killed(trial):
    trial.set_user_attr("pid", os.getpid())
    if trial.number % 2 == 0:
        time.sleep(300)
    return float(trial.number)


def last_words_then(how, trial):
    print("my last words")
    how()
    return 0.0


def leave_at_once():
    os._exit(7)


def leave_politely():
    sys.exit(3)


def segfault():
    ctypes.string_at(0)


def abort():
    os.abort()


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def close_everything():
    os.closerange(3, 100)


def sleep_in_here(trial):
    trial.set_user_attr("pid", os.getpid())
    time.sleep(300)


def hold_the_gil(trial):
    trial.set_user_attr("pid", os.getpid())
    re.match(r"(a+)+$", "a" * 64 + "b")  # backtracks for centuries in C


def start_a_program(trial):
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    trial.set_user_attr("pid", program.pid)
    time.sleep(300)


def signal_myself(trial):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    return 1.0


def environment(trial):
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    trial.set_user_attr("environment", {name: os.environ.get(name) for name in names})
    import torch

    trial.set_user_attr("torch threads", torch.get_num_threads())
    return 0.0


def say(trial):
    print(f"out of trial {trial.number}")
    print(f"err of trial {trial.number}", file=sys.stderr)
    subprocess.run([sys.executable, "-c", "print('from a program')"], check=True)
    return 0.0


def remember(trial):
    """How many trials this process has run, this one included."""
    counter.append(trial.number)
    trial.set_user_attr("pid", os.getpid())
    return float(len(counter))


counter: list[int] = []


def which_modules(trial):
    trial.set_user_attr("loaded", [name for name in ("colorsys", "antigravity_of_none") if name in sys.modules])
    return 0.0


def save(trial):
    trial.save_checkpoint("checkpoint-1", 1)
    return 0.0
