"""Pickling for worker processes: by value what is defined in `__main__`, and the path of what cannot be pickled."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from tunesmith.errors import SettingError

loads = pickle.loads
_ATOMS = (str, bytes, int, float, complex, bool, type(None), type)


def dumps(value: Any) -> bytes:
    """Pickle a value; functions and classes of `__main__` go along by value."""
    return bytes(cloudpickle.dumps(value))


def dumps_task(task: Any) -> bytes:
    """Pickle a task for worker processes.

    Raises SettingError that names what cannot be pickled with its path in the task, as `callbacks[1].writer`.
    """
    try:
        return dumps(task)
    except Exception as error:
        path, culprit, cause = _culprit(task, "", error, seen=set()) or ("", task, error)
        where = path.removeprefix(".") or "the task itself"
        raise SettingError(
            f"a task for worker processes must be picklable, and {where} ({_kind(culprit)}) is not: {cause}; "
            "make it inside the trial, give it __getstate__, or search without workers"
        ) from error


def _culprit(value: Any, path: str, error: Exception, *, seen: set[int]) -> tuple[str, Any, Exception] | None:
    """The innermost part of `value` that cannot be pickled by itself; None when that lies in a part seen before."""
    seen.add(id(value))
    innermost = True
    for step, part in _parts(value):
        if isinstance(part, _ATOMS):
            continue
        if id(part) in seen:
            innermost = False
            continue
        try:
            dumps(part)
        except Exception as inner:  # noqa: BLE001  a __reduce__ may raise anything
            found = _culprit(part, path + step, inner, seen=seen)
            if found is not None:
                return found
            innermost = False
    return (path, value, error) if innermost else None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickling `value` would pickle in turn, each with the step that leads to it."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, MethodType):
        yield "", value.__self__
        yield "", value.__func__
    elif isinstance(value, FunctionType):
        variables = inspect.getclosurevars(value)
        for name, part in {**variables.nonlocals, **variables.globals}.items():
            yield f".{name}", part
        yield from ((f".<default {i}>", part) for i, part in enumerate(value.__defaults__ or ()))
        yield from ((f".{name}", part) for name, part in (value.__kwdefaults__ or {}).items())
    elif isinstance(value, partial):
        yield "", value.func
        yield from ((f"[{i}]", part) for i, part in enumerate(value.args))
        yield from ((f".{name}", part) for name, part in value.keywords.items())
    else:
        yield from _state(value)


def _state(value: Any) -> Iterator[tuple[str, Any]]:
    try:
        reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001  it refuses to be pickled: it is the culprit
        return
    if not isinstance(reduced, tuple):
        return
    state = reduced[2] if len(reduced) > 2 else None  # noqa: PLR2004  (function, arguments, state, ...)
    for part in state if isinstance(state, tuple) else (state,):  # (__dict__, slots)
        if isinstance(part, Mapping):
            yield from ((f".{name}", entry) for name, entry in part.items())
    yield from ((f".<argument {i}>", part) for i, part in enumerate(reduced[1]))


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
