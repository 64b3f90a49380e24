"""Pickling for worker processes: by value what is defined in `__main__`, and the path of what cannot be pickled."""

from __future__ import annotations

import copyreg
import inspect
import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from tunesmith.errors import SettingError

loads = pickle.loads
_ATOMS = (str, bytes, int, float, complex, bool, type(None), type)


def dumps(value: Any, *, bare: Sequence[object] = ()) -> bytes:
    """Pickle a value; functions and classes of `__main__` go along by value, `bare` objects without their state."""
    buffer = io.BytesIO()
    _Pickler(buffer, bare).dump(value)
    return buffer.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, buffer: io.BytesIO, bare: Sequence[object]) -> None:
        super().__init__(buffer)
        self._bare = {id(each) for each in bare}

    def reducer_override(self, obj: Any) -> Any:
        if id(obj) in self._bare:
            return copyreg.__newobj__, (type(obj),)  # type: ignore[attr-defined]
        return super().reducer_override(obj)


def dumps_task(task: Any, *, bare: Sequence[object] = ()) -> bytes:
    """Pickle a task for worker processes, with an empty instance in place of each of the objects `bare`.

    Raises SettingError that names what cannot be pickled with its path in the task, as `callbacks[1].writer`.
    """
    try:
        return dumps(task, bare=bare)
    except Exception as error:
        path, culprit, cause = _culprit(task, "", error, _Search(bare)) or ("", task, error)
        where = path.removeprefix(".") or "the task itself"
        raise SettingError(
            f"a task for worker processes must be picklable, and {where} ({_kind(culprit)}) is not: {cause}; "
            "make it inside the trial, give it __getstate__, or search without workers"
        ) from error


@dataclass
class _Search:
    """For a culprit: objects that travel bare, and parts that were looked into."""

    bare: Sequence[object]
    seen: set[int] = field(default_factory=set)


def _culprit(value: Any, path: str, error: Exception, search: _Search) -> tuple[str, Any, Exception] | None:
    """The innermost part of `value` that cannot be pickled by itself; None when that lies in a part seen before."""
    search.seen.add(id(value))
    innermost = True
    for step, part in _parts(value):
        if isinstance(part, _ATOMS):
            continue
        if id(part) in search.seen:
            innermost = False
            continue
        try:
            dumps(part, bare=search.bare)
        except Exception as inner:  # noqa: BLE001  a __reduce__ may raise anything
            found = _culprit(part, path + step, inner, search)
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
