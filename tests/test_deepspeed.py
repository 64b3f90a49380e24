"""Searches under DeepSpeed, as far as accelerate takes it to the CPU: one rank, ZeRO 2 and 3."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "runners"))
from launched import run

pytest.importorskip("deepspeed", reason="DeepSpeed is in the environment of `make check-plugins`")

SCRIPT = Path(__file__).with_name("deepspeed_script.py")


@pytest.mark.parametrize("stage", [2, 3])
def test_each_trial_has_its_own_rate_a_killed_one_goes_on_and_the_best_model_is_back(tmp_path, monkeypatch, stage):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    code, _ = run(SCRIPT, stage, tmp_path, 11, ranks=1)  # epochs of 8 steps
    assert code != 0
    code, output = run(SCRIPT, stage, tmp_path, 0, ranks=1)
    assert code == 0, output
    found = json.loads((tmp_path / "found.json").read_text())
    assert [state for state, _, _ in found["trials"]] == ["COMPLETE"] * 3
    assert [attempt for _, _, attempt in found["trials"]] == [1, 2, 1]
    assert found["loss"] == pytest.approx(found["best"], rel=1e-5)
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [step for run, step, *_ in steps if run == "run-1"] == [*range(1, 12), *range(9, 17)]
    assert len({rate for *_, rate in steps}) == 3
    assert all(used == pytest.approx(suggested) for *_, suggested, used in steps)
