"""A trial's parameters as text to paste: Python, YAML, command-line flags."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Container, Mapping
from enum import Enum
from typing import Any

from tunesmith.scalars import python_scalar


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as dicts: `{"a.b": 1}` is `{"a": {"b": 1}}`."""
    result: dict[str, Any] = {}
    for name, value in params.items():
        *parents, last = name.split(".")
        inner = result
        for parent in parents:
            following = inner.setdefault(parent, {})
            if not isinstance(following, dict):  # both `a` and `a.b`: nothing to nest
                return dict(params)
            inner = following
        if last in inner:
            return dict(params)
        inner[last] = value
    return result


def as_python(params: Mapping[str, Any], arguments: Container[str] | None = None) -> str:
    """A dict, or, when the names are given that TrainingArguments takes, a call of it; what it does not take is a comment."""
    inner = nested(params)
    if arguments is None:
        return "\n".join(["{", *(f"    {name!r}: {value!r}," for name, value in inner.items()), "}"])
    call = ["TrainingArguments(", *(f"    {n}={v!r}," for n, v in inner.items() if n in arguments), ")"]
    others = [f"# not of TrainingArguments: {n} = {v!r}" for n, v in inner.items() if n not in arguments]
    return "\n".join([*call, *others])


def as_json(value: Any) -> Any:
    """The value where JSON can say it, else what it says of itself."""
    value = python_scalar(value)
    value = value.value if isinstance(value, Enum) else value
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)


def as_yaml(params: Mapping[str, Any]) -> str:
    """YAML that every version of it reads alike."""
    return "\n".join(_yaml_lines(nested(params), ""))


def as_flags(params: Mapping[str, Any]) -> str:
    """`--name value` for argparse and HfArgumentParser; a parameter that is None is left out."""
    return " ".join(shlex.join([f"--{n}", flag_value(v)]) for n, v in nested(params).items() if v is not None)


def flag_value(value: Any) -> str:
    """A value as an argument on a command line; dicts as JSON, as HfArgumentParser reads them."""
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def _yaml_lines(values: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in values.items():
        key = name if name.replace("_", "a").isalnum() and not name.isdigit() else json.dumps(name)
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *_yaml_lines(value, f"{indent}  ")]
        else:
            lines.append(f"{indent}{key}: {_yaml_value(value)}")
    return lines


def _yaml_value(value: Any) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}[str(value)]
        text = repr(value)
        head, e, exponent = text.partition("e")
        # YAML 1.1 takes 1e-05 for text
        return f"{head}.0{e}{exponent}" if e and "." not in head else text
    return json.dumps(value)
