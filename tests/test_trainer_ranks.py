"""Searches of a Trainer's hyperparameters on the ranks of a job: the same script, the same best, no rank left behind."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "runners"))
from launched import by_accelerate, command, notes, run

import tunesmith

SCRIPT = Path(__file__).with_name("trainer_ranks_script.py")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the two ranks have noted that `accelerate launch` started."""
    folder = tmp_path_factory.mktemp("ranks")
    code, output = run(SCRIPT, "many", folder, launch=by_accelerate)
    assert code == 0, output
    return [notes(folder, rank) for rank in range(2)]


def found(both, name):
    return [next(note for note in rank if note.get("search") == name) for rank in both]


def test_all_ranks_take_the_same_steps_with_the_same_parameters(both):
    steps = [
        [note for note in rank[: rank.index(end)] if "step" in note]
        for rank, end in zip(both, found(both, "many"), strict=True)
    ]
    assert steps[0] == steps[1]
    assert {note["run"] for note in steps[0]} == {f"run-{number}" for number in range(6)}


def test_every_end_of_a_trial_is_that_of_all_ranks_and_the_next_trial_trains(both):
    first, second = found(both, "many")
    assert first["trials"] == second["trials"]
    assert [state for state, _, _ in first["trials"]] == [
        "COMPLETE", "PRUNED", "FAILED", "FAILED", "FAILED", "COMPLETE",
    ]  # fmt: skip
    assert [reason for _, reason, _ in first["trials"][2:5]] == [
        "error: ValueError: rank 0 fails",
        "error: ValueError: rank 1 fails",
        "error: ValueError: all fails",
    ]


def test_a_trial_that_takes_too_long_or_hangs_on_one_rank_is_ended_on_all(both):
    for note in found(both, "overdue"):
        assert note["trials"] == [["FAILED", "timeout: the trial took longer than 2 s"]] * 2


@pytest.mark.parametrize("search", ["many", "unsaved", "sigopt", "wandb"])
def test_the_best_and_its_model_are_the_same_on_all_ranks(both, search):
    first, second = found(both, search)
    assert first["best"] == second["best"]
    assert first["weights"] == second["weights"]
    assert first["loss"] == second["loss"] == pytest.approx(first["best"][1], rel=1e-6)


def test_suggestions_of_model_init_reach_all_ranks(both):
    assert {len(note["best"][2]) for note in found(both, "many")} == {2}


def test_the_studys_timeout_pauses_the_trial_on_all_ranks(both):
    for note in found(both, "paused"):
        assert note["trials"] == [["PAUSED", "timeout: 1 s are over"]]


def test_when_a_rank_is_killed_torchruns_restart_resumes_the_trial_from_its_checkpoint(tmp_path):
    code, output = run(SCRIPT, "killed", tmp_path, 1, restarts=1)
    assert code == 0, output
    assert "rank 1 (process" in output
    first, second = [notes(tmp_path, rank) for rank in range(2)]
    assert first[-1] == second[-1]
    assert [trial[0::2] for trial in first[-1]["trials"]] == [["COMPLETE", 1], ["COMPLETE", 2], ["COMPLETE", 1]]
    resumed = next(note for note in first if note.get("restart") == "1")
    assert (resumed["run"], resumed["step"]) == ("run-1", 5)  # epochs of 4 steps: the last checkpoint was at 4
    launch = tunesmith.load_study(tmp_path / "killed").info.settings["launch"]  # what `tunesmith resume` starts
    expected = command(SCRIPT, "killed", tmp_path, 1, restarts=1)
    assert launch == {"command": expected, "directory": str(Path.cwd()), "interactive": False}
