"""A Trainer's optimizer and state that go on under other hyperparameters."""

import json

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

from tunesmith import inheritance


def made(rate, decay, schedule):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([{"params": [weight], "weight_decay": decay}], lr=rate)
    return optimizer, schedule(optimizer)


def linear(optimizer):
    return LambdaLR(optimizer, lambda step: 1 - step / 10)


def decaying(optimizer):
    return ExponentialLR(optimizer, 0.5)


def trained(rate, decay, schedule, steps):
    optimizer, scheduler = made(rate, decay, schedule)
    for _ in range(steps):
        optimizer.param_groups[0]["params"][0].sum().backward()
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


@pytest.mark.parametrize("schedule", [linear, decaying])
def test_rates_and_decay_are_the_new_ones_where_the_schedule_stands_and_what_was_learned_stays(schedule):
    theirs, their_schedule = trained(0.1, 0.3, schedule, 4)
    optimizer, scheduler = made(0.01, 0.2, schedule)
    wanted = inheritance.settings(optimizer, scheduler)
    optimizer.load_state_dict(theirs.state_dict())
    scheduler.load_state_dict(their_schedule.state_dict())
    assert optimizer.param_groups[0]["lr"] > 0.005  # theirs: what was to be changed
    inheritance.apply(wanted, optimizer, scheduler)
    group = optimizer.param_groups[0]
    expected, _ = trained(0.01, 0.2, schedule, 4)
    assert group["lr"] == pytest.approx(expected.param_groups[0]["lr"])
    assert scheduler.get_last_lr() == [group["lr"]]
    assert (group["initial_lr"], group["weight_decay"]) == (0.01, 0.2)
    assert next(iter(optimizer.state.values()))["step"] == 4
    optimizer.step()
    scheduler.step()
    further, _ = trained(0.01, 0.2, schedule, 5)
    assert group["lr"] == pytest.approx(further.param_groups[0]["lr"])


def test_another_trials_best_evaluation_is_forgotten_in_this_ones_copy_alone(tmp_path):
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    for place in (theirs, own):
        place.mkdir()
    state = {"best_metric": 0.1, "best_model_checkpoint": "run-0/checkpoint-2", "train_batch_size": 8, "global_step": 2}
    (theirs / "trainer_state.json").write_text(json.dumps(state))
    (own / "trainer_state.json").hardlink_to(theirs / "trainer_state.json")
    inheritance.forget_past(own, train_batch_size=16)
    changed = json.loads((own / "trainer_state.json").read_text())
    assert (changed["best_metric"], changed["best_model_checkpoint"]) == (None, None)
    assert (changed["train_batch_size"], changed["global_step"]) == (16, 2)
    assert json.loads((theirs / "trainer_state.json").read_text()) == state
