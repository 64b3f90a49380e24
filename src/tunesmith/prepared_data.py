"""The datasets of TRL's Trainers: prepared once, and again only for a trial whose settings of TRL's own differ."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import transformers

# whose preparation is a function of its arguments
_PREPARING = {"trl.trainer.sft_trainer", "trl.trainer.dpo_trainer", "trl.trainer.reward_trainer"}


def prepare_once(kind: Any) -> None:
    """Let the Trainers of a class share what they have prepared, where the class is TRL's."""
    original = getattr(kind, "_prepare_dataset", None)
    if original is None or original.__module__ not in _PREPARING:
        return
    prepared: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}

    def prepare(trainer: Any, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(dataset, "__len__"):  # a stream
            return original(trainer, dataset, *args, **kwargs)
        which = (id(dataset), *[a for a in (*args, *kwargs.values()) if isinstance(a, str)])
        key = [_preparing(a) for a in (*args, *kwargs.values())]
        known = prepared.get(which)
        if known is None or known[0] != key:
            # what is known by its id must stay alive
            prepared[which] = known = (key, original(trainer, dataset, *args, **kwargs), (dataset, args, kwargs))
        return known[1]

    kind._prepare_dataset = prepare  # noqa: SLF001


def _preparing(argument: Any) -> Any:
    """What of an argument can change how TRL prepares a dataset: no number but a whole one, of transformers the seed."""
    if isinstance(argument, transformers.TrainingArguments):
        names = {f.name for f in fields(argument)} - {f.name for f in fields(transformers.TrainingArguments)}
        names |= {"seed"} if getattr(argument, "shuffle_dataset", False) else set()
        return {n: repr(v) for n, v in vars(argument).items() if n in names and not isinstance(v, float)}
    return argument if isinstance(argument, bool | int | str | None) else id(argument)
