"""Signals that reach a search at bad moments."""

import io
import os
import signal
import sys

import optuna
import pytest

import tunesmith
from tunesmith.trial import TrialState


class InterruptedWrite(io.RawIOBase):
    """A file; a signal comes in the middle of the write that is due when `armed` is set."""

    def __init__(self):
        self.armed = False
        self.written = b""

    def writable(self):
        return True

    def write(self, data):
        if self.armed:
            self.armed = False
            os.kill(os.getpid(), signal.SIGINT)
        self.written += bytes(data)
        return len(data)


def test_a_signal_in_the_middle_of_a_print_pauses_the_trial_with_a_notice(tmp_path, monkeypatch):
    raw = InterruptedWrite()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True))

    def objective(trial):
        raw.armed = True
        print("said by the trial")
        if trial.should_prune():
            raise optuna.TrialPruned
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        tunesmith.search(objective, 3, directory=tmp_path, space={}, progress=True)
    (trial,) = tunesmith.load_study(tmp_path).trials
    assert (trial.state, trial.reason) == (TrialState.PAUSED, "interrupted: SIGINT")
    said = raw.written.decode()
    assert said.index("said by the trial") < said.index("interrupted: SIGINT; finishing what must be recorded")
