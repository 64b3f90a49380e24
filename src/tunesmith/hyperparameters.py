"""Whether each hyperparameter of a Trainer's search takes effect: told before the first trial."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from tunesmith import arguments, process_state
from tunesmith.errors import SettingError
from tunesmith.hp_space import Probe

# what the search itself sets for each trial, and what to do instead
_SET_BY_SEARCH = {
    "output_dir": "each trial has a folder of its own in the study's, which `directory` names",
    "run_name": "name the trials' runs by hp_name",
    "push_to_hub": "push the best model after the search",
    "resume_from_checkpoint": "a trial that was interrupted goes on by itself",
}
_OF_OPTIMIZER = {"learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "optim", "optim_args"}
_OF_SCHEDULE = {"lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio"}
_STEPS = 1000  # of a training whose schedules are compared


def check(probe: Probe, trainer: transformers.Trainer, given: Mapping[str, Any], *, strict: bool) -> None:
    """Raise SettingError for values that cannot be; warn (with `strict` raise) of what would have no effect.

    `given` are the arguments that the Trainer was made with.
    """
    for name in probe.names:
        if name in _SET_BY_SEARCH:
            raise SettingError(
                f"hyperparameters must be what a search leaves to its trials, and it sets {name} itself: leave that out; "
                f"{_SET_BY_SEARCH[name]}"
            )
    made = _arguments(probe, trainer)
    _check_schedule(probe, trainer, made)
    messages = [
        *([] if probe.distributions or arguments.suggestions(trainer.model_init) else [_without_parameters(probe)]),
        *_overruled(probe, made),
        *_unknown(probe, trainer),
        *_of_parts(given, probe.names),
        *_without_effect(probe, trainer, made),
    ]
    if messages and strict:
        raise SettingError("; ".join(messages))
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=4)


def _arguments(probe: Probe, trainer: transformers.Trainer) -> list[Any]:
    """The arguments of each draw."""
    made = []
    for values in probe.values:
        known = _known(values, trainer)
        try:
            with process_state.own_environment(trainer.args):
                made.append(arguments.fresh(trainer.args, known))
        except ValueError as error:
            raise SettingError(f"hyperparameters must be what TrainingArguments takes, got {known}: {error}") from error
    return made


def _check_schedule(probe: Probe, trainer: transformers.Trainer, made: Sequence[Any]) -> None:
    """Raise SettingError for settings that transformers' schedules refuse, which every trial would otherwise."""
    ours = any(getattr(type(trainer), hook) is not getattr(transformers.Trainer, hook) for hook in _SCHEDULE.hooks)
    if ours or trainer.is_deepspeed_enabled or not _OF_SCHEDULE & {name.partition(".")[0] for name in probe.names}:
        return
    args = made[0]
    try:
        for args in made:
            _schedule(args, trainer)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"hyperparameters must be what the schedule takes, got lr_scheduler_type={_shown([args], 'lr_scheduler_type')} with "
            f"lr_scheduler_kwargs={args.lr_scheduler_kwargs}: {error}"
        ) from error


def _known(values: Mapping[str, Any], trainer: transformers.Trainer) -> dict[str, Any]:
    return {k: v for k, v in values.items() if hasattr(trainer.args, k.partition(".")[0])}


def _without_parameters(probe: Probe) -> str:
    return (
        f"a space must have a parameter, and hp_space suggests none (it gave {dict(probe.values[0])}): all trials train with "
        "the same values, unless model_init suggests some; ask for a value by trial.suggest_float(...) or another suggest_..."
    )


def _overruled(probe: Probe, made: Sequence[Any]) -> list[str]:
    """Numbers that TrainingArguments replaces by others."""
    found = {
        name: value
        for values, args in zip(probe.values, made, strict=True)
        for name, value in values.items()
        if isinstance(value, int | float) and getattr(args, name, value) != value
    }
    return [
        f"hyperparameters must take effect, and TrainingArguments does not keep {name}={value!r}"
        for name, value in found.items()
    ]


def _unknown(probe: Probe, trainer: transformers.Trainer) -> list[str]:
    """Names that nothing reads, each with the nearest one."""
    unknown = arguments.unknown_names(probe.names, trainer.args, trainer, trainer.model_init)
    if not unknown:
        return []
    listed = ", ".join(f"{n!r}" + (f" (did you mean {near!r}?)" if near else "") for n, near in unknown.items())
    return [f"hyperparameters must be read by TrainingArguments, the Trainer or model_init, and nothing reads {listed}"]


def _of_parts(given: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """An optimizer or a schedule that the Trainer was given does not read the arguments that make one."""
    heads = {name.partition(".")[0] for name in names}
    optimizer, schedule = given.get("optimizers") or (None, None)
    found = []
    for unread, part, hook in (
        (_OF_OPTIMIZER | {"weight_decay"}, "optimizers" if optimizer is not None else None, "create_optimizer"),
        (
            _OF_OPTIMIZER,
            "optimizer_cls_and_kwargs" if given.get("optimizer_cls_and_kwargs") else None,
            "create_optimizer",
        ),
        (_OF_SCHEDULE, "a schedule in optimizers" if schedule is not None else None, "create_scheduler"),
    ):
        if part is not None and unread & heads:
            found.append(
                f"hyperparameters must take effect, and {', '.join(sorted(unread & heads))} has none in a Trainer that was "
                f"given {part}; leave that out, or override {hook}"
            )
    return found


@dataclass(frozen=True)
class _Made:
    """What training makes of some of the arguments, `names`: where another value makes the same, it has no effect.

    `told` are arguments that may be the reason; `hooks` the Trainer's methods by which a subclass may make it otherwise.
    """

    names: frozenset[str]
    told: tuple[str, ...]
    hooks: tuple[str, ...]
    make: Callable[[Any, transformers.Trainer], Any]


def _optimizer(args: Any, trainer: transformers.Trainer) -> Any:
    return repr(type(trainer).get_optimizer_cls_and_kwargs(args, trainer.model))


def _schedule(args: Any, trainer: transformers.Trainer) -> Any:  # noqa: ARG001  as the others
    """The rates of each step, of a schedule that follows a metric its settings."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = transformers.get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(_STEPS),
        num_training_steps=_STEPS,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    if not isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
        return {k: v for k, v in vars(schedule).items() if isinstance(v, bool | int | float | str)}
    return [schedule.lr_lambdas[0](step) for step in range(_STEPS)]


def _length(args: Any, trainer: transformers.Trainer) -> Any:  # noqa: ARG001
    return args.max_steps if args.max_steps > 0 else args.num_train_epochs


_SCHEDULE = _Made(
    frozenset({"warmup_steps", "warmup_ratio", "lr_scheduler_kwargs"}),
    ("lr_scheduler_type", "warmup_steps"),
    ("create_scheduler", "create_optimizer_and_scheduler"),
    _schedule,
)
_MADE = (
    _Made(
        frozenset({"adam_beta1", "adam_beta2", "adam_epsilon", "optim_args"}),
        ("optim",),
        ("create_optimizer", "create_optimizer_and_scheduler"),
        _optimizer,
    ),
    _SCHEDULE,
    _Made(frozenset({"num_train_epochs"}), ("max_steps",), (), _length),
)


def _without_effect(probe: Probe, trainer: transformers.Trainer, made: Sequence[Any]) -> list[str]:
    """Arguments by whose values nothing changes in any draw, for another argument decides."""
    messages = []
    for kind in _MADE:
        if kind.hooks and trainer.is_deepspeed_enabled:  # its configuration may make them
            continue
        if any(getattr(type(trainer), hook) is not getattr(transformers.Trainer, hook) for hook in kind.hooks):
            continue
        for name in probe.names:
            if name.partition(".")[0] in kind.names and not _matters(kind, name, probe, trainer, made):
                reasons = {f"{t}={_shown(made, t)}" for t in kind.told if t != name}
                messages.append(
                    f"hyperparameters must take effect, and {name} has none with {', '.join(sorted(reasons))}; leave it out, "
                    "or change that"
                )
    return messages


def _matters(kind: _Made, name: str, probe: Probe, trainer: transformers.Trainer, made: Sequence[Any]) -> bool:
    """Whether another value makes a difference somewhere; True where no two values can be compared."""
    compared = False
    head = name.partition(".")[0]
    for args, other in _pairs(name, probe, trainer, made):
        if getattr(args, head) == getattr(other, head):
            continue
        try:
            if kind.make(args, trainer) != kind.make(other, trainer):
                return True
        except Exception:  # noqa: BLE001  a trial that gets there tells of it, with its values
            return True
        compared = True
    return not compared


def _pairs(name: str, probe: Probe, trainer: transformers.Trainer, made: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """The arguments of each draw that has the name, and those with another draw's value of it, or without it."""
    drawn = [values[name] for values in probe.values if name in values]
    for values, args in zip(probe.values, made, strict=True):
        if name not in values:
            continue
        known = _known(values, trainer)
        another = next(({name: v} for v in drawn if v != values[name]), {})
        try:
            with process_state.own_environment(trainer.args):
                other = arguments.fresh(trainer.args, {**{k: v for k, v in known.items() if k != name}, **another})
        except ValueError:
            continue
        yield args, other


def _shown(made: Sequence[Any], name: str) -> str:
    """An argument's values over all draws."""
    values = [getattr(args, name) for args in made]
    return " or ".join(sorted({repr(getattr(v, "value", v)) for v in values}))
