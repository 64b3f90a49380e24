"""A model that is not the best trial's says so when it is used, until it is trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from tunesmith.errors import ModelNotSavedError

_MARK = "_tunesmith_refuses"
_USES = ("forward", "save_pretrained")


def refuse_use(model: Any, message: str) -> None:
    """Let a model raise ModelNotSavedError when it is evaluated or saved. Training makes it a model like any other."""
    accept_use(model)
    before = {name: vars(model)[name] for name in (*_USES, "train") if name in vars(model)}
    change_mode = model.train

    def train(mode: bool = True) -> Any:
        if mode:
            accept_use(model)
        return change_mode(mode)

    ours = {name: _refusing(model, getattr(model, name), message) for name in _USES if hasattr(model, name)}
    ours["train"] = train
    vars(model).update(ours)
    vars(model)[_MARK] = (ours, before)


def accept_use(model: Any) -> None:
    """Undo `refuse_use`, if the model has been through it."""
    ours, before = vars(model).pop(_MARK, ({}, {}))
    for name, function in ours.items():
        if vars(model).get(name) is function:  # a wrapper around it, put there since, stays and lets calls through
            del vars(model)[name]
            vars(model).update({n: f for n, f in before.items() if n == name})


def _refusing(model: Any, function: Callable[..., Any], message: str) -> Callable[..., Any]:
    @wraps(function)  # a Trainer asks forward for the columns that it takes
    def refuse(*args: Any, **kwargs: Any) -> Any:
        if _MARK in vars(model):
            raise ModelNotSavedError(message)
        return function(*args, **kwargs)

    return refuse
