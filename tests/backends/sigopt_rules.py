"""What a SigOpt server refuses, by the rules of the open-source sigopt-server (handlers and handlers/validate)."""

from __future__ import annotations

import re

NAME, CHOICE, PROJECT = 100, 50, 32  # letters
METADATA, KEYS = 500, 100
EDGE = 1e-8  # of the shortest range
KINDS = {
    "experiment": {"name", "project", "type", "observation_budget", "budget", "metrics", "parameters", "conditionals",
                   "linear_constraints", "tasks", "metadata", "num_solutions", "parallel_bandwidth", "runs_only"},
    "update": {"project", "observation_budget", "budget", "state", "name", "metrics", "parameters", "no_optimize",
               "metadata", "parallel_bandwidth"},
    "observation": {"suggestion", "assignments", "values", "failed", "no_optimize", "metadata", "task"},
    "batch": {"observations", "dry_run", "no_optimize"},
    "suggestion": {"assignments", "task", "metadata"},
    "queued": {"assignments", "task"},
    "project": {"id", "name", "metadata"},
    "metric": {"name", "objective", "strategy", "threshold", "object"},
}  # fmt: skip


class Refused(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def demand(good, message):
    if not good:
        raise Refused(400, message)


def number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def keys(kind, body):
    unknown = sorted(set(body) - KINDS[kind])
    demand(not unknown, f"Unknown json keys {unknown} in {kind}")
    metadata(body.get("metadata"))


def metadata(given):
    for key, value in (given or {}).items():
        demand(len(given) <= KEYS and len(key) <= KEYS, "metadata has too many keys, or one that is too long")
        demand(value is None or number(value) or isinstance(value, str), f"metadata {key} has the wrong type")
        demand(not isinstance(value, str) or len(value) <= METADATA, f"metadata {key} is too long")


def name(given, most=NAME):
    demand(isinstance(given, str) and 0 < len(given) <= most, f"{given!r} must have 1 to {most} characters")


def project(body):
    keys("project", body)
    name(body["name"])
    demand(re.fullmatch(r"[a-z0-9\-_\.]{1,32}", body["id"]), f"{body['id']!r} is no id of a project")


def experiment(body):
    keys("experiment", body)
    name(body["name"])
    metrics(body)
    demand(body.get("parameters"), "Experiments must have at least one parameter.")
    conditionals = {c["name"]: c["values"] for c in body.get("conditionals") or []}
    for values in conditionals.values():
        choices(values)
    names = [p["name"] for p in body["parameters"]] + [*conditionals]
    demand(len(set(names)) == len(names), "Duplicate parameter name")
    for p in body["parameters"]:
        name(p["name"])
        parameter(p)
        for c, values in p.get("conditions", {}).items():
            demand(set(values) <= set(conditionals.get(c, ())) and values, f"{p['name']}: no such conditional value")
    bandwidth = body.get("parallel_bandwidth")
    demand(bandwidth is None or (isinstance(bandwidth, int) and bandwidth > 0), "parallel_bandwidth must be positive")


def metrics(body):
    budget = body.get("observation_budget")
    demand(budget is None or isinstance(budget, int), "observation_budget must be an integer")
    given = body["metrics"]
    kinds = [m.get("strategy") or "optimize" for m in given]
    demand(len({m["name"] for m in given}) == len(given) <= 50, "Duplicate metric name, or too many")
    demand(kinds.count("optimize") <= 2, "Experiments must have at most 2 optimized metrics")
    demand(kinds.count("constraint") <= 4, "Experiments must have at most 4 constraint metrics")
    demand(set(kinds) & {"optimize", "constraint"}, "Experiments must have optimized or constraint metrics")
    demand(budget or set(kinds) == {"optimize"}, "observation_budget is required for constraint metrics")
    demand(budget or kinds.count("optimize") == 1, "observation_budget is required for more than one optimized metric")
    for metric, kind in zip(given, kinds, strict=True):
        keys("metric", metric)
        name(metric["name"])
        demand(kind in ("optimize", "constraint", "store"), f"Unrecognized strategy: {kind}")
        demand(metric.get("objective") in (None, "minimize", "maximize"), "Unrecognized objective type")
        demand((kind == "constraint") == number(metric.get("threshold")), "threshold: for constraint metrics, and all")


def parameter(p):
    grid, bounds, kind = p.get("grid"), p.get("bounds"), p["type"]
    demand(kind in ("double", "int", "categorical"), f"Invalid param_type: {kind}")
    demand(kind == "double" or not p.get("transformation"), "Transformation is only valid for type `double`")
    if kind == "categorical":
        demand(bounds is None and grid is None, "Categorical parameters have neither bounds nor grid")
        choices(p["categorical_values"])
        return
    demand("categorical_values" not in p, "Numerical parameters cannot have `categorical_values`")
    demand((grid is None) != (bounds is None), "bounds or grid")
    numbers = grid or [bounds["min"], bounds["max"]]
    demand(all(isinstance(v, int) if kind == "int" else number(v) for v in numbers), f"{numbers}: no numbers of {kind}")
    demand(len(set(numbers)) == len(numbers) >= 2, "2 or more different values")
    demand(max(numbers) - min(numbers) >= EDGE, "Invalid bounds: too short")
    demand(grid or bounds["min"] < bounds["max"], "Invalid bounds: max must be greater than min")
    demand(not p.get("transformation") or min(numbers) > 0, "bounds must be positive for log-transformation")


def choices(values):
    demand(len(set(values)) == len(values) >= 2, "Duplicate values, or less than 2")
    for value in values:
        name(value, CHOICE)


def update(of, body):
    keys("update", body)
    several = sum(m["strategy"] == "optimize" for m in of["metrics"]) > 1
    demand(
        not (several and "observation_budget" in body),
        "`observation_budget` cannot be updated for more than one metric",
    )


def observation(of, body):
    keys("observation", body)
    demand((body.get("suggestion") is None) != (body.get("assignments") is None), "suggestion or assignments")
    demand(not (body.get("failed") and body.get("values")), "Cannot provide `values` if observation has failed")
    demand(body.get("failed") or body.get("values"), "Missing required json key `value`")
    values(of, body)


def changed(of, body, before):
    """A change of an observation: what is not in the body stays as it was, so that a failure needs values of null."""
    keys("observation", body)
    failed = body["failed"] if "failed" in body else before["failed"]
    measured = body["values"] if "values" in body else (before["values"] or None)
    demand((measured is None) == bool(failed), "Observations must either have a value or failed == true")
    values(of, body)


def values(of, body):
    given = body.get("values")
    if body.get("failed") or given is None:
        return
    names = {m["name"] for m in of["metrics"]}
    demand(len(given) == len(names), "The number of observation values and experiment metrics must be equal.")
    demand({v["name"] for v in given} == names, f"values must have metric names defined in experiment: {names}")
    demand(all(number(v["value"]) for v in given), "Missing value")
