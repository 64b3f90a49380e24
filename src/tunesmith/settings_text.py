"""A trial's parameters as text to paste: Python, YAML, command-line flags."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from typing import Any


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


def as_python(params: Mapping[str, Any], call: str | None = None) -> str:
    """A dict, or with `call` ("TrainingArguments") a call with keyword arguments where the names allow it."""
    inner = nested(params)
    if call is not None and all(name.isidentifier() for name in inner):
        return "\n".join([f"{call}(", *(f"    {name}={value!r}," for name, value in inner.items()), ")"])
    return "\n".join(["{", *(f"    {name!r}: {value!r}," for name, value in inner.items()), "}"])


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
