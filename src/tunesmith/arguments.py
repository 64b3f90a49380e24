"""TrainingArguments for one trial: typed conversion of hyperparameters, and what a name can mean."""

from __future__ import annotations

import ast
import copy
import dataclasses
import difflib
import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from tunesmith.errors import SettingError
from tunesmith.scalars import python_scalar

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
# what differs between two starts of the same search without changing what is searched
_INCIDENTAL = {
    "output_dir", "logging_dir", "run_name", "report_to", "local_rank", "hub_token", "push_to_hub_token",
    "disable_tqdm", "log_level", "log_level_replica", "logging_first_step", "overwrite_output_dir",
    "resume_from_checkpoint", "ddp_timeout", "hub_model_id", "push_to_hub", "trackio_space_id", "project",
}  # fmt: skip
# what a Trainer is made of, by names that a user may give to something else: "optimizer", "model"
_PARTS = {
    "accelerator", "args", "callback_handler", "compute_loss_func", "compute_metrics", "compute_objective", "control",
    "data_collator", "deepspeed", "eval_dataset", "hp_name", "hp_space", "label_smoother", "lr_scheduler", "model",
    "model_init", "model_wrapped", "objective", "optimizer", "optimizer_cls_and_kwargs",
    "preprocess_logits_for_metrics", "processing_class", "ref_model", "state", "tokenizer", "train_dataset",
}  # fmt: skip
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of an object without a text of its own: another one at each start
# where transformers 5 knows the new name, it lets that one decide
_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


def fresh(arguments: Any, changes: Mapping[str, Any]) -> Any:
    """A new arguments object of the same class with `changes` (checked names) converted and applied.

    Mutable values are copied, so that nothing a trial does to its arguments reaches the user's. `__post_init__` runs
    again, since it derives values from others, unless the class cannot bear that (some derived values then stay).
    """
    result = _copy(arguments)
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if rest:
            nested = dict(_as_dict(getattr(result, head), head))
            nested[rest] = value
            kinds = _options(_hints(type(arguments)).get(head, Any))
            text = isinstance(getattr(result, head), str) or (str in kinds and dict not in kinds)  # optim_args
            changed: Any = _joined(nested) if text else nested
        elif isinstance(value, Mapping) and isinstance(getattr(result, head), Mapping):
            changed = {**getattr(result, head), **value}
        else:
            changed = convert(head, value, _hints(type(arguments)).get(head, Any))
        computed = getattr(type(arguments), head, None)
        if isinstance(computed, property) and computed.fset is None:
            near = [f.name for f in dataclasses.fields(arguments) if f.name.endswith(head)]
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise SettingError(f"{name} cannot be set: {type(arguments).__name__} computes it from others{hint}")
        setattr(result, head, changed)
    for old, new in _RENAMED.items():
        if old in changes and new not in changes and hasattr(result, new):
            setattr(result, new, getattr(result, old))
    return _derived(result, arguments) if changes else result


def convert(name: str, value: Any, hint: Any) -> Any:
    """The value in the field's type, by its annotation. Raises SettingError where there is no faithful conversion."""
    options = _options(hint)
    none = value is None or (isinstance(value, str) and value.lower() == "none" and str not in options)
    if none and (type(None) in options or Any in options):
        return None
    value = python_scalar(value)
    for option in options:
        if isinstance(option, type) and type(value) is option:
            return value
    for option in sorted(options, key=_rank):
        converted = _convert_to(option, value)
        if converted is not _NO:
            return converted
    wanted = " or ".join(getattr(o, "__name__", str(o)) for o in options if o is not type(None))
    raise SettingError(f"{name} must be {wanted}, got {value!r} ({type(value).__name__})")


def unknown_names(
    names: Iterable[str], arguments: Any, trainer: Any, model_init: Callable[..., Any] | None
) -> dict[str, str | None]:
    """The names that nothing reads, each with the nearest known name (None when none is near).

    A name is read when it is a field of the arguments (`field.key` for a nested one), a setting of the Trainer, or
    when the code of `model_init` (or of a function it calls) mentions it.
    """
    fields = {f.name for f in dataclasses.fields(arguments)}
    mentioned = _strings(model_init)
    unknown = {}
    for name in names:
        head = name.partition(".")[0]
        if head in fields or head in mentioned or name in mentioned or is_setting(trainer, head):
            continue
        near = difflib.get_close_matches(name, sorted(fields | mentioned), n=1)
        unknown[name] = near[0] if near else None
    return unknown


def is_setting(trainer: Any, name: str) -> bool:
    """Whether a hyperparameter of this name is to take an attribute's place: not the Trainer's parts, nor its methods."""
    return hasattr(trainer, name) and name not in _PARTS and not callable(getattr(trainer, name))


def identity(arguments: Any) -> dict[str, str]:
    """The arguments as text by name, without what does not change the search."""
    found = {}
    for field in dataclasses.fields(arguments):
        if field.name not in _INCIDENTAL and field.init and not field.name.startswith("_"):
            found[field.name] = _ADDRESS.sub("", str(getattr(arguments, field.name, None)))
    return found


def suggestions(function: Callable[..., Any] | None) -> list[str]:
    """The `suggest_...` calls in a function's source, as text: what a model_init adds to the space, seen beforehand.

    Empty where there is no source. Ranges that stand in variables show only as their names.
    """
    try:
        tree = (
            ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))) if function else ast.Module([], [])
        )
    except (OSError, SyntaxError, TypeError):  # defined in a shell, a lambda within an expression, a built-in
        return []
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    return sorted({ast.unparse(c) for c in calls if c.func.attr.startswith("suggest")})  # type: ignore[attr-defined]


class _No:
    """No conversion."""


_NO = _No()


def _copy(arguments: Any) -> Any:
    result = copy.copy(arguments)
    for name, value in vars(result).items():
        if isinstance(value, dict | list | set):
            setattr(result, name, copy.deepcopy(value))
    return result


def _derived(changed: Any, arguments: Any) -> Any:
    """The arguments with what __post_init__ derives from the changed values; what it refuses of them is raised."""
    derived = _copy(changed)
    try:
        derived.__post_init__()
    except Exception:  # raised again, where it is the values' fault
        try:
            _copy(arguments).__post_init__()
        except Exception:  # noqa: BLE001  the class cannot bear a second time, whatever the values
            return changed
        raise
    return derived


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError):  # a name that is only imported for type checking
        return {f.name: f.type for f in dataclasses.fields(kind) if not isinstance(f.type, str)}


def _options(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(o for part in typing.get_args(hint) for o in _options(part))
    origin = typing.get_origin(hint)
    return (origin if isinstance(origin, type) else hint,)


def _rank(option: Any) -> int:
    """Narrow types are tried first: "0.1" is a number before it is a string."""
    if isinstance(option, type) and issubclass(option, Enum):
        return 0
    return {bool: 1, int: 2, float: 3, dict: 4, str: 5}.get(option, 6)


def _convert_to(option: Any, value: Any) -> Any:  # noqa: PLR0911, C901  a table of types in order
    if option is Any:
        return value
    if not isinstance(option, type) or option is type(None):
        return _NO
    if issubclass(option, Enum):
        try:
            return option(value)
        except ValueError:
            return _NO
    if option is bool:
        if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        return bool(value) if value in (0, 1) and isinstance(value, int | float) else _NO
    if option in (int, float):
        if isinstance(value, bool):
            return _NO
        try:
            number = float(value)
        except (TypeError, ValueError):
            return _NO
        if option is float:
            return number
        return int(number) if number.is_integer() else _NO
    if option is str:
        return str(value.value if isinstance(value, Enum) else value) if not isinstance(value, Mapping) else _NO
    if option is dict:
        return _json_dict(value)
    return value if isinstance(value, option) else _NO


def _json_dict(value: Any) -> Any:
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return _NO
    return dict(value) if isinstance(value, Mapping) else _NO


def _as_dict(value: Any, name: str) -> Mapping[str, Any]:
    """A nested field as a dict; strings like optim_args are `key=value,key=value`."""
    if value is None:
        return {}
    if isinstance(value, str):
        return dict(part.strip().split("=", 1) for part in value.split(",") if part.strip())
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # accelerator_config
        return dataclasses.asdict(value)
    raise SettingError(f"{name} has no nested hyperparameters, got a {type(value).__name__}")


def _joined(nested: Mapping[str, Any]) -> str:
    return ",".join(f"{k}={v}" for k, v in nested.items())


def _strings(function: Callable[..., Any] | None, depth: int = 3) -> set[str]:  # noqa: C901  a walk over code
    """The string constants and attribute names in a function's code and in the functions it calls."""
    function = inspect.unwrap(function) if function is not None else None
    function = getattr(function, "func", function)  # functools.partial
    code = getattr(function, "__code__", None)
    if code is None or depth == 0:
        return set()
    found: set[str] = set()
    pending = [code]
    while pending:
        current = pending.pop()
        for constant in current.co_consts:
            if isinstance(constant, str):
                found.add(constant)
            elif isinstance(constant, types.CodeType):
                pending.append(constant)
            elif isinstance(constant, tuple):
                found.update(c for c in constant if isinstance(c, str))
        for name in current.co_names:
            called = getattr(function, "__globals__", {}).get(name)
            if isinstance(called, types.FunctionType):
                found |= _strings(called, depth - 1)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            inner = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if isinstance(inner, types.FunctionType):
            found |= _strings(inner, depth - 1)
    return found
