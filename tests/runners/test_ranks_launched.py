"""Searches on two ranks under torchrun: whatever happens, all ranks take the same step, leave together and know the same."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from launched import LIMIT, notes, run, torchrun

import tunesmith
from tunesmith.trial import TrialState

sys.path.insert(0, str(Path(__file__).parent.parent / "faults"))
from soak import rounds

SCRIPT = Path(__file__).with_name("ranks_script.py")
OUTCOMES = {
    "none": (TrialState.COMPLETE, None),
    "rank 1 fails": (TrialState.FAILED, "error: ValueError: of rank 1 (on rank 1 of 2)"),
    "rank 0 fails": (TrialState.FAILED, "error: ValueError: of rank 0 (on rank 0 of 2)"),
    "all fail": (TrialState.FAILED, "error: ValueError: of all"),
    "the study prunes": (TrialState.PRUNED, "pruned: "),
    "rank 1 exits": (TrialState.FAILED, "error: SystemExit: 3 (on rank 1 of 2)"),
    "rank 0 runs out of memory": (
        TrialState.FAILED,
        "oom: OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB (on rank 0 of 2)",
    ),
    "rank 1 fails and its model is kept": (TrialState.FAILED, "error: ValueError: of rank 1 (on rank 1 of 2)"),
    "the trial takes too long": (TrialState.FAILED, "timeout: the trial took longer than 3 s"),
    "not finite": (TrialState.FAILED, "nan: the objective is nan at step 2"),
    "all prune themselves": (TrialState.PRUNED, "pruned"),
    "rank 1 hangs": (TrialState.FAILED, "timeout: the trial took longer than 3 s"),
    "rank 0 hangs": (TrialState.FAILED, "timeout: the trial took longer than 3 s"),
    "rank 1 is pruned alone": (
        TrialState.FAILED,
        "error: rank 1 was pruned, and others were not within 1 s; all ranks must raise TrialPruned at the same step",
    ),
}


TRIALS = rounds(len(OUTCOMES), 100)


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    code, output = run(SCRIPT, "faults", folder, TRIALS, ",".join(OUTCOMES))
    assert code == 0, output
    return folder


@pytest.mark.parametrize("fault", OUTCOMES)
def test_a_fault_ends_its_trial_on_all_ranks_with_the_reason_and_the_next_trials_run(faults, fault):
    trials = tunesmith.load_study(faults).trials
    kinds = list(OUTCOMES)
    assert len(trials) == TRIALS
    for trial in trials[kinds.index(fault) :: len(kinds)]:
        state, reason = OUTCOMES[fault]
        assert trial.state is state
        assert (trial.reason or "").startswith(reason or "")


def test_all_ranks_get_the_same_parameters_take_the_same_steps_and_end_with_the_same_best(faults):
    both = [[{k: v for k, v in note.items() if k != "time"} for note in notes(faults, rank)] for rank in range(2)]
    assert both[0] == both[1]
    assert both[0][-1]["trials"] == TRIALS


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    code, output = run(SCRIPT, "ends", folder)
    assert code == 0, output
    return [{note["search"]: note for note in notes(folder, rank) if "search" in note} for rank in range(2)]


def test_ranks_that_ask_for_different_things_are_told_so_at_once(ends):
    for found in ends:
        assert found["bug"]["error"] == "UserFunctionError"
        assert "rank 0 has come to suggest('x') where another rank is at suggest('y')" in found["bug"]["text"]


def test_what_ends_the_search_on_rank_0_is_raised_on_all(ends):
    for found in ends:
        assert found["failing"]["error"] == "SearchFailedError"
        assert "3 of 3 trials failed" in found["failing"]["text"]


def test_a_search_after_one_that_has_failed_gives_all_ranks_the_same(ends):
    same = [{k: v for k, v in found["next"].items() if k != "time"} for found in ends]
    assert same[0] == same[1]


def test_the_studys_timeout_pauses_the_trial_on_all_ranks(ends):
    for found in ends:
        assert found["timeout"]["states"][-1] == "PAUSED"
        assert found["timeout"]["reason"] == "timeout: 1 s are over"


@pytest.mark.parametrize(
    ("number", "to", "left", "code"),
    [(signal.SIGINT, "the job", "KeyboardInterrupt", None), (signal.SIGTERM, "rank 1 alone", "SystemExit", 143)],
)
def test_a_signal_pauses_the_trial_at_the_same_step_on_all_ranks(tmp_path, number, to, left, code):
    with torchrun(SCRIPT, "signal", tmp_path) as job:
        until = time.monotonic() + LIMIT
        while time.monotonic() < until and not all(_steps(tmp_path, rank) for rank in range(2)):
            time.sleep(0.05)
        if to == "the job":
            job.send_signal(number)
        else:
            os.kill(notes(tmp_path, 1)[0]["pid"], number)
        output, _ = job.communicate(timeout=LIMIT)
    ends = [notes(tmp_path, rank)[-1] for rank in range(2)]
    assert [(end.get("left"), end.get("code")) for end in ends] == [(left, code)] * 2, output
    assert _steps(tmp_path, 0) == _steps(tmp_path, 1)
    (trial,) = tunesmith.load_study(tmp_path).trials
    assert (trial.state, trial.reason) == (TrialState.PAUSED, f"interrupted: {number.name}")


def _steps(folder, rank):
    return [note["step"] for note in notes(folder, rank) if "step" in note]
