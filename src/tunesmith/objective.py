"""The objective of a Trainer's search: from the metrics of an evaluation to one number, or one per direction."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers.trainer_utils import default_compute_objective

from tunesmith.errors import SettingError
from tunesmith.study import Study
from tunesmith.trial import Trial


@dataclass(frozen=True)
class Objective:
    """A function of the metrics, with its directions and the name by which a study knows it."""

    function: Callable[[dict[str, float]], Any]
    directions: tuple[str, ...]
    name: str
    summed: bool = False

    @classmethod
    def of(
        cls, trainer: Any, compute_objective: Callable[[dict[str, float]], Any] | None, directions: tuple[str, ...]
    ) -> Objective:
        """The user's function, else the metric that `metric_for_best_model` names, else transformers' default.

        `direction` is turned to "maximize" where the arguments say that greater is better; a metric that contradicts
        the direction given is not taken.
        """
        own = any(
            getattr(type(trainer), name) is not getattr(transformers.Trainer, name)
            for name in ("get_eval_dataloader", "evaluate")
        )
        if trainer.eval_dataset is None and not own:
            raise SettingError("a search needs an eval_dataset to compute the objective on, got None")
        if compute_objective is not None:
            name = getattr(compute_objective, "__qualname__", type(compute_objective).__name__)
            return cls(compute_objective, directions, name)
        if len(directions) > 1:
            raise SettingError(
                f"several directions need a compute_objective that returns {len(directions)} values, got None"
            )
        metric, greater = trainer.args.metric_for_best_model, bool(trainer.args.greater_is_better)
        if metric is not None and (greater or directions == ("minimize",)):
            key = metric if metric.startswith("eval_") else f"eval_{metric}"
            if greater and directions == ("minimize",):
                warnings.warn(
                    f"{key} is maximized, since greater_is_better is set and no compute_objective is given; "
                    "pass a compute_objective to search for something else",
                    UserWarning,
                    stacklevel=4,
                )
            return cls(_Metric(key), ("maximize",) if greater else directions, key)
        return cls(default_compute_objective, directions, "default_compute_objective", summed=True)

    def __call__(self, metrics: Mapping[str, float]) -> float | list[float]:
        """The objective's value(s); raises what the user's function raises, ValueError for another number of them."""
        result = self.function(dict(metrics))
        if len(self.directions) == 1 and not isinstance(result, list | tuple):
            return float(result)
        values = [float(v) for v in result]
        if len(values) != len(self.directions):
            raise ValueError(f"it must return one value per direction, got {len(values)} for {[*self.directions]}")
        return values


class SumWatch:
    """An observer that warns, at the first report, when what is minimized is the sum of the user's metrics."""

    def __init__(self, objective: Objective) -> None:
        self._wanted = objective.summed and objective.directions == ("minimize",)

    def on_report(self, study: Study, trial: Trial) -> None:  # noqa: ARG002  observers get the study
        """A trial has reported."""
        metrics = trial.reports[-1].metrics
        parts = [m for m in metrics if m not in ("eval_loss", "epoch") and not m.endswith(("_runtime", "_per_second"))]
        if self._wanted and not all(m.endswith("_loss") for m in parts):
            self._wanted = False
            warnings.warn(
                f"what is minimized is the sum {' + '.join(parts)}: the default objective adds all metrics but the "
                'loss. Pass direction="maximize" if more is better, or a compute_objective',
                UserWarning,
                stacklevel=2,
            )


@dataclass(frozen=True)
class _Metric:
    key: str

    def __call__(self, metrics: Mapping[str, float]) -> float:
        if self.key not in metrics:
            raise KeyError(
                f"metric_for_best_model names {self.key!r}; the evaluation gave {', '.join(sorted(metrics))}"
            )
        return metrics[self.key]
