"""Search spaces in every dialect (Optuna, Ray Tune, W&B sweeps, SigOpt) as Optuna distributions, and back."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tunesmith.errors import MissingDependencyError, SpaceError
from tunesmith.scalars import python_scalar
from tunesmith.trial import Space


def parse_space(space: Any) -> dict[str, BaseDistribution]:
    """The space as Optuna distributions by name; a plain value becomes a choice of one.

    Takes a dict of Optuna distributions, of Ray Tune domains, a W&B sweep config (or its `parameters`) or a list of
    SigOpt parameters. Nested parameters get dotted names. Normal distributions are searched within three standard
    deviations, and other priors (W&B's `probabilities`, SigOpt's `prior`) evenly; a UserWarning says so. Raises
    SpaceError for anything else.
    """
    if isinstance(space, list | tuple):
        return _from_sigopt(space)
    if not isinstance(space, Mapping):
        raise SpaceError(
            f"a space is a function of the trial, a dict or a SigOpt list, got {type(space).__name__}: {space!r}"
        )
    if isinstance(space.get("parameters"), Mapping):
        return _from_wandb(space["parameters"])
    if any(isinstance(v, Mapping) and _is_wandb(v) for v in space.values()):
        return _from_wandb(space)
    return _from_dict(space, "")


def is_domain(value: Any) -> bool:
    """Whether a value is an Optuna distribution or a Ray Tune domain (Ray itself need not be loaded to tell)."""
    return isinstance(value, BaseDistribution) or type(value).__module__.partition(".")[0] == "ray"


def as_function(space: Space) -> Callable[[Any], dict[str, Any]]:
    """A function of the trial that suggests every parameter; dotted names come back as dotted names."""

    def suggest(trial: Any) -> dict[str, Any]:
        return {name: _suggest(trial, name, distribution) for name, distribution in space.items()}

    return suggest


def _suggest(trial: Any, name: str, d: BaseDistribution) -> Any:
    if isinstance(d, FloatDistribution):
        return trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
    if isinstance(d, IntDistribution):
        return trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
    if isinstance(d, CategoricalDistribution):
        return trial.suggest_categorical(name, d.choices)
    raise SpaceError(f'unknown distribution {d!r} for "{name}"')


# -- building with our errors ----------------------------------------------------------------------------------------


def _float(name: str, low: Any, high: Any, *, log: bool = False, step: float | None = None) -> BaseDistribution:
    low, high = _number(name, low), _number(name, high)
    _ordered(name, low, high, log=log)
    if step is not None:
        _step(name, step)
        steps = math.floor((high - low) / step + 1e-9)
        high = low + steps * step  # Optuna would shorten the range with a warning
    return FloatDistribution(low, high, log=log, step=step)


def _int(name: str, low: Any, high: Any, *, log: bool = False, step: int = 1) -> BaseDistribution:
    low, high, step = _number(name, low), _number(name, high), _step(name, step)
    if not (float(low).is_integer() and float(high).is_integer() and float(step).is_integer() and step >= 1):
        raise SpaceError(f'an integer range needs whole numbers, got low={low} high={high} step={step} for "{name}"')
    low, high, step = int(low), int(high), int(step)
    _ordered(name, low, high, log=log)
    return IntDistribution(low, low + (high - low) // step * step, log=log, step=step)


def _step(name: str, step: Any) -> Any:
    if _number(name, step) <= 0:
        raise SpaceError(f'a step must be above 0, got {step!r} for "{name}"')
    return step


def _choice(name: str, choices: Any) -> BaseDistribution:
    choices = choices.tolist() if hasattr(choices, "tolist") else choices  # a NumPy array
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise SpaceError(f'choices must be a list with at least one value, got {choices!r} for "{name}"')
    choices = [python_scalar(c) for c in choices]
    for value in choices:
        if value is not None and not isinstance(value, bool | int | float | str):
            raise SpaceError(
                f'a choice must be None, a bool, a number or a string, got {value!r} for "{name}"; '
                "let hp_space map a name to it"
            )
    return CategoricalDistribution(tuple(choices))


def _number(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise SpaceError(f'a bound must be a finite number, got {value!r} for "{name}"')
    return int(value) if isinstance(value, Integral) else float(value)


def _ordered(name: str, low: float, high: float, *, log: bool) -> None:
    if low > high:
        raise SpaceError(f'low must not exceed high, got low={low} high={high} for "{name}"')
    if log and low <= 0:
        raise SpaceError(f'a log range must begin above 0, got low={low} for "{name}"')


# -- Optuna and Ray Tune ---------------------------------------------------------------------------------------------


def _from_dict(space: Mapping[str, Any], prefix: str) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for key, value in space.items():
        name = f"{prefix}{key}"
        if isinstance(value, BaseDistribution):
            found[name] = value
        elif is_domain(value):
            found[name] = _from_ray(name, value)
        elif isinstance(value, Mapping) and set(value) == {"grid_search"}:
            found[name] = _choice(name, value["grid_search"])
        elif isinstance(value, Mapping):
            found |= _from_dict(value, f"{name}.")
        elif value is None or isinstance(value, bool | int | float | str):
            found[name] = _choice(name, [value])
        else:
            raise SpaceError(
                f'a parameter is a distribution or a plain value, got {type(value).__name__} for "{name}": {value!r}'
            )
    return found


def _from_ray(name: str, domain: Any) -> BaseDistribution:
    """A Ray Tune domain; upper bounds of integer domains are exclusive there, those of quantized ones inclusive."""
    kind = type(domain).__name__
    sampler: Any = domain.get_sampler() if hasattr(domain, "get_sampler") else None
    step: Any = None
    if type(sampler).__name__ == "Quantized":
        step, sampler = sampler.q, sampler.sampler
    log = "LogUniform" in type(sampler).__name__
    if kind == "Categorical":
        return _choice(name, list(domain.categories))
    if type(sampler).__name__.lstrip("_") == "Normal":
        return _normal(name, sampler.mean, sampler.sd, step=step)
    if kind in ("Float", "Integer") and not (math.isfinite(domain.lower) and math.isfinite(domain.upper)):
        raise SpaceError(f'a parameter needs bounds, got {domain!r} for "{name}"; use tune.uniform')
    if kind == "Float":
        if step is not None and log:
            return _grid(name, domain.lower, domain.upper, step)
        return _float(name, domain.lower, domain.upper, log=log, step=step)
    if kind == "Integer":
        if step is not None and step != 1:
            return _grid(name, domain.lower, domain.upper, step) if log else _multiples(name, domain, step)
        high = domain.upper if step is not None else domain.upper - 1
        return _int(name, domain.lower, high, log=log)
    raise SpaceError(
        f'only domains with bounds or choices can be searched by every backend, got {kind} for "{name}"; '
        "write sample_from as a function of the trial: hp_space=lambda trial: ..."
    )


def _multiples(name: str, domain: Any, step: int) -> BaseDistribution:
    """The multiples of `step` within the bounds, both included."""
    return _int(name, math.ceil(domain.lower / step) * step, domain.upper, step=step)


def _normal(name: str, mean: float, deviation: float, *, log: bool = False, step: Any = None) -> BaseDistribution:
    """A normal distribution as the range that holds 99.7 % of it, for the backends need bounds."""
    mean, deviation = _number(name, mean), _step(name, deviation)
    low, high = mean - 3 * deviation, mean + 3 * deviation
    if log:
        low, high = _exp(name, low), _exp(name, high)
    warnings.warn(
        f'"{name}" is searched from {low:.6g} to {high:.6g} (three standard deviations around the mean): a search '
        "needs bounds; give them yourself to choose others",
        UserWarning,
        stacklevel=2,
    )
    if step is None:
        return _float(name, low, high, log=log)
    _step(name, step)
    if log and step == 1:
        return _int(name, max(1, math.ceil(low)), math.floor(high), log=True)
    if log:
        return _grid(name, max(low, step), high, step)
    whole = float(step).is_integer()
    first, last = math.ceil(low / step), math.floor(high / step)
    if whole:
        return _int(name, first * int(step), last * int(step), step=int(step))
    return _float(name, first * step, last * step, step=step)


def _exp(name: str, exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError as error:
        raise SpaceError(
            f'the bounds are exponents of e here, got {exponent} for "{name}"; use log_uniform_values for plain bounds'
        ) from error


def _evenly(name: str, what: str) -> None:
    warnings.warn(f'{what} of "{name}" is not used: its values are searched evenly', UserWarning, stacklevel=2)


def _grid(name: str, low: float, high: float, step: float) -> BaseDistribution:
    """A log range with a step, as the list of its values (at most 1,000)."""
    _ordered(name, _number(name, low), _number(name, high), log=True)
    _step(name, step)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    if last - first >= 1000:  # noqa: PLR2004
        raise SpaceError(f'a log range with a step may have 1,000 values, got {last - first + 1} for "{name}"')
    return _choice(name, [k * step for k in range(first, last + 1)])


# -- W&B -------------------------------------------------------------------------------------------------------------

_WANDB_MARKS = {"value", "values", "min", "max", "distribution", "parameters"}
_WANDB_KEYS = _WANDB_MARKS | {"mu", "sigma", "q", "probabilities"}
_WANDB_DISTRIBUTIONS = (
    "constant", "categorical", "categorical_w_probabilities", "int_uniform", "uniform", "q_uniform", "log_uniform",
    "log_uniform_values", "inv_log_uniform", "inv_log_uniform_values", "q_log_uniform", "q_log_uniform_values",
    "normal", "q_normal", "log_normal", "q_log_normal",
)  # fmt: skip


def _is_wandb(value: Mapping[str, Any]) -> bool:
    """Whether this is one parameter of a sweep, and not a nested space whose parameters are called like W&B's keys."""
    domains = any(is_domain(v) for v in value.values())
    return set(value) <= _WANDB_KEYS and bool(_WANDB_MARKS & set(value)) and not domains


def _from_wandb(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, BaseDistribution]:
    """The `parameters` of a sweep config; distributions as W&B documents them, exponents of e made plain bounds."""
    found: dict[str, BaseDistribution] = {}
    for key, config in parameters.items():
        name = f"{prefix}{key}"
        if not isinstance(config, Mapping):
            raise SpaceError(
                f'a W&B parameter is a dict with value, values or min and max, got {config!r} for "{name}"'
            )
        stray = [k for k in config if k not in _WANDB_KEYS]
        if stray and config.get("distribution") in (None, *_WANDB_DISTRIBUTIONS):
            near = difflib.get_close_matches(str(stray[0]), sorted(_WANDB_KEYS), n=1)
            raise SpaceError(
                f'a W&B parameter has the keys {", ".join(sorted(_WANDB_KEYS))}, got {stray[0]!r} for "{name}"'
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        if isinstance(config.get("parameters"), Mapping):
            found |= _from_wandb(config["parameters"], f"{name}.")
        else:
            found[name] = _wandb_distribution(name, config)
    return found


def _wandb_distribution(name: str, config: Mapping[str, Any]) -> BaseDistribution:  # noqa: C901, PLR0911, PLR0912  a table of forms
    if "value" in config:
        return _choice(name, [config["value"]])
    if "values" in config:
        if "probabilities" in config:
            _evenly(name, "probabilities")
        return _choice(name, config["values"])
    missing = [k for k in ("min", "max") if k not in config]
    kind = config.get("distribution")
    if kind not in (None, *_WANDB_DISTRIBUTIONS):
        raise SpaceError(f'a W&B distribution is one of {", ".join(_WANDB_DISTRIBUTIONS)}, got {kind!r} for "{name}"')
    if kind in ("normal", "q_normal", "log_normal", "q_log_normal"):
        step = config.get("q", 1) if kind.startswith("q_") else None
        return _normal(name, config.get("mu", 0), config.get("sigma", 1), log="log" in kind, step=step)
    if missing and kind not in ("constant", "categorical", "categorical_w_probabilities"):
        raise SpaceError(f'a W&B parameter needs min and max, got {dict(config)} for "{name}"')
    if missing:
        raise SpaceError(f'{kind} needs its value or values, got {dict(config)} for "{name}"')
    low, high, q = _number(name, config["min"]), _number(name, config["max"]), _step(name, config.get("q", 1))
    if kind is None:
        whole = isinstance(low, int) and isinstance(high, int)
        return _int(name, low, high) if whole else _float(name, low, high)
    if kind == "int_uniform":
        return _int(name, low, high)
    if kind == "uniform":
        return _float(name, low, high)
    if kind in ("log_uniform_values", "inv_log_uniform_values"):
        return _float(name, low, high, log=True)
    if kind in ("log_uniform", "inv_log_uniform"):
        sign = -1 if kind.startswith("inv") else 1
        return _float(name, *sorted((_exp(name, sign * low), _exp(name, sign * high))), log=True)
    if kind == "q_uniform":
        first, last = math.ceil(low / q - 1e-9), math.floor(high / q + 1e-9)  # W&B rounds to multiples of q
        if float(q).is_integer():
            return _int(name, first * q, last * q, step=int(q))
        return _float(name, first * q, last * q, step=float(q))
    if kind in ("q_log_uniform_values", "q_log_uniform"):
        if kind == "q_log_uniform":
            low, high = _exp(name, low), _exp(name, high)
        if q == 1:
            return _int(name, max(1, math.ceil(low)), math.floor(high), log=True)
        return _grid(name, low, high, q)
    raise SpaceError(f'{kind} needs its value or values, got {dict(config)} for "{name}"')


def to_wandb(space: Space) -> dict[str, dict[str, Any]]:
    """The `parameters` of a W&B sweep config."""
    return {name: _to_wandb(d) for name, d in space.items()}


def _to_wandb(d: BaseDistribution) -> dict[str, Any]:  # noqa: PLR0911  a table of forms
    if isinstance(d, CategoricalDistribution):
        return {"values": list(d.choices)}
    if isinstance(d, FloatDistribution):
        if d.log:
            return {"distribution": "log_uniform_values", "min": d.low, "max": d.high}
        if d.step is not None:
            return {"values": _float_grid(d)}  # q_uniform's multiples of q need not begin at low
        return {"distribution": "uniform", "min": d.low, "max": d.high}
    if isinstance(d, IntDistribution):
        if d.log:
            return {"distribution": "q_log_uniform_values", "min": d.low, "max": d.high, "q": 1}
        if d.step == 1:
            return {"distribution": "int_uniform", "min": d.low, "max": d.high}
        return {"values": list(range(d.low, d.high + 1, d.step))}
    raise SpaceError(f"W&B has no form for {d!r}")


# -- SigOpt ----------------------------------------------------------------------------------------------------------


def _from_sigopt(parameters: Sequence[Any]) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for p in parameters:
        if not isinstance(p, Mapping) or "name" not in p:
            raise SpaceError(f"a SigOpt parameter is a dict with a name, got {p!r}")
        if str(p["name"]) in found:
            raise SpaceError(f'names must differ, got "{p["name"]}" twice')
        if p.get("conditions"):
            raise SpaceError(
                f'a list has no conditions, got conditions for "{p["name"]}"; write the space as a function of the trial'
            )
        if p.get("prior"):
            _evenly(str(p["name"]), "prior")
        found[str(p["name"])] = _sigopt_distribution(str(p["name"]), p)
    return found


def _sigopt_distribution(name: str, p: Mapping[str, Any]) -> BaseDistribution:
    kind = p.get("type")
    if "categorical_values" in p:
        return _choice(name, [v["name"] if isinstance(v, Mapping) else v for v in p["categorical_values"]])
    if p.get("grid"):
        return _choice(name, p["grid"])
    bounds = p.get("bounds")
    if not isinstance(bounds, Mapping) or kind not in ("double", "int"):
        raise SpaceError(
            f"a SigOpt parameter is a double or int with bounds, or has categorical_values or a grid, got {dict(p)}"
        )
    if kind == "int":
        return _int(name, bounds.get("min"), bounds.get("max"))
    return _float(name, bounds.get("min"), bounds.get("max"), log=p.get("transformation") == "log")


def to_ray(space: Space) -> dict[str, Any]:
    """A dict of Ray Tune domains. Raises MissingDependencyError without Ray."""
    try:
        from ray import tune  # noqa: PLC0415  an optional package
    except ImportError as error:
        raise MissingDependencyError('a Ray Tune space needs Ray: pip install "ray[tune]"') from error

    found: dict[str, Any] = {}
    for name, d in space.items():
        if isinstance(d, CategoricalDistribution):
            found[name] = tune.choice(list(d.choices))
        elif isinstance(d, FloatDistribution):
            if d.log:
                found[name] = tune.loguniform(d.low, d.high)
            else:
                found[name] = tune.uniform(d.low, d.high) if d.step is None else tune.choice(_float_grid(d))
        elif isinstance(d, IntDistribution):
            if d.log:
                found[name] = tune.lograndint(d.low, d.high + 1)
            elif d.step == 1:
                found[name] = tune.randint(d.low, d.high + 1)
            else:
                found[name] = tune.choice(list(range(d.low, d.high + 1, d.step)))
        else:
            raise SpaceError(f'Ray Tune has no form for {d!r} ("{name}")')
    return found


def _float_grid(d: FloatDistribution) -> list[float]:
    step = d.step or 1.0
    return [d.low + k * step for k in range(round((d.high - d.low) / step) + 1)]
