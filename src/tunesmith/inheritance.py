"""A Trainer that goes on with another trial's weights under hyperparameters of its own, as population based training has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

_STATE = "trainer_state.json"


def forget_past(checkpoint: Path, *, train_batch_size: int) -> None:
    """Let the state in a checkpoint know no best evaluation, which was another trial's, and this trial's batch size.

    The file takes the place of the old one, which the other trial may still have.
    """
    state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    state |= {"best_metric": None, "best_model_checkpoint": None, "best_global_step": None}
    state["train_batch_size"] = train_batch_size
    part = checkpoint / f"{_STATE}.part"
    part.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    part.replace(checkpoint / _STATE)


@dataclass(frozen=True)
class OptimizerSettings:
    """What hyperparameters make of an optimizer: its groups' settings, and the learning rates that a schedule starts from."""

    groups: Sequence[dict[str, Any]]
    base_rates: Sequence[float] | None


def settings(optimizer: Any, schedule: Any) -> OptimizerSettings:
    """The settings of an optimizer and schedule as they were made."""
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return OptimizerSettings(groups, getattr(schedule, "base_lrs", None))


def apply(wanted: OptimizerSettings, optimizer: Any, schedule: Any) -> None:
    """Put settings back into an optimizer and schedule that were loaded with another trial's; what they have learned stays.

    The learning rate is where the schedule stands now, from this trial's rate.
    """
    for group, own in zip(optimizer.param_groups, wanted.groups, strict=True):
        loaded = group.get("initial_lr", group["lr"])
        share = group["lr"] / loaded if loaded else 1.0
        initial = own.get("initial_lr", own["lr"])
        group.update(own)
        group["lr"] = initial * share
    if wanted.base_rates is None:
        return
    schedule.base_lrs = list(wanted.base_rates)
    if isinstance(schedule, LambdaLR):  # its function may be another one too
        for group, base, share_at in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = base * share_at(schedule.last_epoch)
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]  # noqa: SLF001
