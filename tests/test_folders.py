"""A trial takes over another one's checkpoint."""

from tunesmith.folders import step_of, take_over


def saved(run, *steps):
    for step in steps:
        place = run / f"checkpoint-{step}"
        (place / "inner").mkdir(parents=True)
        (place / "weights").write_text(f"{run.name} {step}")
        (place / "inner" / "state").write_text("s")
    return run / f"checkpoint-{steps[-1]}"


def test_a_checkpoint_is_taken_over_without_a_second_copy_and_stays_when_the_other_trial_removes_its_own(tmp_path):
    theirs = saved(tmp_path / "run-0", 4)
    saved(tmp_path / "run-1", 2, 6)
    taken = take_over(theirs, tmp_path / "run-1")
    assert [p.name for p in (tmp_path / "run-1").iterdir()] == ["checkpoint-4"]
    assert (taken / "weights").samefile(theirs / "weights")
    assert (taken / "inner" / "state").read_text() == "s"
    (theirs / "weights").unlink()
    assert (taken / "weights").read_text() == "run-0 4"
    assert step_of(taken) == 4


def test_where_the_checkpoint_is_gone_the_newest_of_the_other_trial_is_taken(tmp_path):
    theirs = saved(tmp_path / "run-0", 6, 8)
    taken = take_over(theirs.with_name("checkpoint-4"), tmp_path / "run-1")
    assert (taken / "weights").read_text() == "run-0 8"


def test_where_nothing_is_left_nothing_is_taken(tmp_path):
    saved(tmp_path / "run-1", 2)
    assert take_over(tmp_path / "run-0" / "checkpoint-4", tmp_path / "run-1") is None
    assert (tmp_path / "run-1" / "checkpoint-2").exists()
