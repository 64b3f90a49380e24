"""What a study knows a function by: the plain values that it holds, and its code without comments, line breaks, docstrings."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from tunesmith.masking import mask
from tunesmith.scalars import python_scalar

_DEEP = 3  # functions that hold functions that hold functions
_LONG = 80  # characters of a value that are kept
_MANY = 100  # values of a container: more are data, not settings
_ATOMS = (bool, int, float, complex, str, bytes, PurePath, Enum, type(None))
_BY_VALUE = {*dis.hasconst, *dis.hasname, *dis.hasfree}  # of other instructions the number counts, no local's name
# another Python writes other code for the same source
_WRITER = f"{sys.implementation.cache_tag}-{sys.flags.optimize}"


def described(function: Any) -> dict[str, Any]:
    """The function as JSON.

    `code` is a digest; `unnamed` says that it is a lambda, which only its code tells from another one; `holds` are the
    plain values of its closure, its defaults, the arguments of a partial and the object it is a method of, as text by name.
    """
    code = _code(function)
    return {
        "code": "" if code is None else f"{_WRITER}:{_digest(_operations(code))}",
        "unnamed": _is_lambda(code),
        "holds": {name: _short(text) for name, text in _held(function, _DEEP)},
    }


def differences(role: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Why a function cannot be the one that was described before; `role` is what a search calls it."""
    held, holds = before["holds"], now["holds"]
    found = [
        f"{role}'s {name} was {held[name]}, now {holds[name]}"
        for name in sorted({*held} & {*holds})
        if held[name] != holds[name]
    ]
    if not found and (before["unnamed"] or now["unnamed"]) and edited(before, now):
        found.append(f"{role}'s code was another one, and a lambda has no name to be known by")
    return found


def edited(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the code has changed, as far as one Python wrote both."""
    writer, _, digest = before["code"].partition(":")
    writer_now, _, digest_now = now["code"].partition(":")
    return bool(writer == writer_now and digest != digest_now)


def lasting(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The description without the values that are not as they were: those are what a function notes, not what it is."""
    return {**now, "holds": {n: text for n, text in now["holds"].items() if before["holds"].get(n) == text}}


def _code(function: Any) -> types.CodeType | None:
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(function, types.FunctionType | type):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    return code if isinstance(code, types.CodeType) else None


def _is_lambda(code: types.CodeType | None) -> bool:
    return code is not None and code.co_name == "<lambda>"


def _operations(code: types.CodeType) -> str:
    steps = (step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG")
    return repr([(s.opname, _constant(s.argval) if s.opcode in _BY_VALUE else s.arg) for s in steps])


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _operations(value)
    if isinstance(value, frozenset):  # whose order is another one in each process
        return repr(sorted(map(_constant, value)))
    return repr(tuple(map(_constant, value))) if isinstance(value, tuple) else repr(value)


def _held(function: Any, deep: int) -> Iterator[tuple[str, str]]:
    """The plain values that a function holds, by name."""
    if isinstance(function, functools.partial):
        yield from _held(function.func, deep)
        yield from _texts([*((str(k), v) for k, v in enumerate(function.args)), *function.keywords.items()], deep)
        return
    owner = getattr(function, "__self__", function)
    if not isinstance(owner, types.FunctionType | types.ModuleType | type):
        yield from _texts(getattr(owner, "__dict__", {}).items(), 0)
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):
        return
    code, defaults = function.__code__, function.__defaults__ or ()
    yield from _texts(
        zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True), deep
    )
    yield from _texts((function.__kwdefaults__ or {}).items(), deep)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        yield from _texts([(name, value)], deep)


def _texts(values: Iterable[tuple[str, Any]], deep: int) -> Iterator[tuple[str, str]]:
    for name, value in values:
        text = _text(value)
        if text is not None:
            yield name, text
        elif deep and isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            code = _code(value)
            if _is_lambda(code) and code is not None:
                yield name, f"lambda {_digest(_operations(code))}"
            elif isinstance(value, types.FunctionType):
                yield name, _name(value)
            yield from ((f"{name}.{inner}", text) for inner, text in _held(value, deep - 1))


def _text(value: Any, deep: int = 4) -> str | None:
    """The value as text, None where it is not plain."""
    value = python_scalar(value)
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, _ATOMS):
        return str(value) if isinstance(value, Enum | PurePath) else repr(value)
    if type(value) not in (dict, list, tuple, set, frozenset) or len(value) > _MANY or not deep:
        return None
    parts = [_text(part, deep - 1) for part in value]
    if isinstance(value, dict):
        parts = [
            t and k and f"{k}: {t}" for k, t in zip(parts, (_text(v, deep - 1) for v in value.values()), strict=True)
        ]
    texts = [part for part in parts if part is not None]
    if len(texts) < len(parts):
        return None
    return f"[{', '.join(texts)}]" if isinstance(value, list | tuple) else f"{{{', '.join(sorted(texts))}}}"


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _short(text: str) -> str:
    """Without secrets, and a long text by its beginning and a digest."""
    text = mask(text)
    return text if len(text) <= _LONG else f"{text[:_LONG]}... {_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
