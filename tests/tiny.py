"""A tiny model and data for Trainer tests: a real transformers Trainer, a step takes milliseconds."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput


class TinyConfig(PretrainedConfig):
    model_type = "tiny"

    def __init__(self, hidden: int = 8, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden


class TinyModel(PreTrainedModel):
    """Two linear layers; the loss is a cross entropy."""

    config_class = TinyConfig

    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.inner = torch.nn.Linear(4, config.hidden)
        self.outer = torch.nn.Linear(config.hidden, 2)
        self.post_init()

    def forward(self, x=None, labels=None):
        logits = self.outer(torch.tanh(self.inner(x)))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Points(torch.utils.data.Dataset):
    """Points in four dimensions; the label is the sign of a product."""

    def __init__(self, n: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, 4, generator=generator)
        self.y = (self.x[:, 0] * self.x[:, 1] > 0).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "labels": self.y[i]}


def model_init(trial=None):
    return TinyModel(TinyConfig())


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def arguments(directory, **changes):
    settings = {
        "output_dir": str(directory),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "report_to": [],
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        **changes,
    }
    return TrainingArguments(**settings)


def make(cls, directory, *, callbacks=None, compute_metrics=None, init=model_init, **changes):
    return cls(
        model=None,
        args=arguments(directory, **changes),
        train_dataset=Points(128, 0),
        eval_dataset=Points(64, 1),
        model_init=init,
        callbacks=callbacks,
        compute_metrics=compute_metrics,
    )
