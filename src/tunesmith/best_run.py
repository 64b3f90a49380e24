"""What a Trainer's search hands back: transformers' BestRun, and what else can be said of the best trial."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard
from transformers import trainer_utils

from tunesmith.errors import TunesmithError
from tunesmith.report import model_card
from tunesmith.report.summary import number, plain
from tunesmith.report.table import study_html
from tunesmith.study import Study
from tunesmith.trial import Trial


class BestRun(trainer_utils.BestRun):
    """transformers' named tuple with the same four fields; `run_summary` is the study."""

    __slots__ = ()

    @property
    def study(self) -> Study:
        """The study, also where `run_summary` is Ray Tune's own result."""
        known: Any = getattr(self.run_summary, "study", self.run_summary)
        study: Study = known
        return study

    @property
    def trial(self) -> Trial:
        """What is recorded of the run. Raises TunesmithError when no trial has given any value."""
        found = next((t for t in self.study.trials if str(t.number) == self.run_id), None)
        if found is None:
            raise TunesmithError(f"no trial of study {self.study.name!r} has a value: {self.study.summary()}")
        return found

    def model_card_section(self) -> str:
        """How the hyperparameters were found, as a section of a model card, in Markdown."""
        return model_card.section(self.study, self.trial)

    def model_index(self, *, name: str, task: str, dataset: str) -> list[dict[str, Any]]:
        """The run's evaluation as the Hub's `model-index` metadata: a model's `name`, such as "text-classification", "glue"."""
        return model_card.model_index(self.study, self.trial, name=name, task=task, dataset=dataset)

    def _repr_html_(self) -> str:
        """What a notebook shows: the run, and the study below it."""
        params = ", ".join(f"{plain(n)}={number(v)}" for n, v in self.hyperparameters.items())
        shown = f"<strong>trial {escape(self.run_id)}: {escape(str(self.objective))}</strong> {escape(params)}"
        return f"<div><div>{shown}</div>{study_html(self.study)}</div>"


def add_to_card(path: Path, best: BestRun, *, task: str | None, dataset: str | None) -> None:
    """Add the search to the model card in a file: a section, tags, and the evaluation where none is there yet."""
    card = ModelCard.load(path)
    card.text = f"{card.text.rstrip()}\n\n{best.model_card_section()}"
    tags = list(card.data.tags or [])
    card.data.tags = [*tags, *(tag for tag in model_card.TAGS if tag not in tags)]
    if task is not None and dataset is not None and not card.data.eval_results:
        found: Mapping[str, float] = model_card.metrics(best.study, best.trial)
        card.data.model_name = card.data.model_name or path.resolve().parent.name
        card.data.eval_results = [
            EvalResult(task_type=task, dataset_type=dataset, dataset_name=dataset, metric_type=key, metric_value=value)
            for key, value in found.items()
        ]
    card.save(path)
