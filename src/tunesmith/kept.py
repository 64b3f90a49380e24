"""The best trial's weights in memory, for searches that save no checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil
import torch

from tunesmith.errors import ModelNotSavedError
from tunesmith.trial import signs

SHARE_OF_MEMORY = 0.25  # weights are kept when they take at most this share of the memory that is available


class KeptModel:
    """Holds a CPU copy of the best model so far: its trained parameters and buffers."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._loss = float("inf")
        self._weights: dict[str, torch.Tensor] = {}

    def offer(
        self, number: int, values: Sequence[float] | None, directions: Sequence[str], model: torch.nn.Module
    ) -> None:
        """Keep the model if it is the best so far (by the first objective) and fits."""
        if values is None:
            return
        loss = signs(directions)[0] * values[0]
        if loss >= self._loss:
            return
        tensors = {n: p for n, p in model.named_parameters() if p.requires_grad} | dict(model.named_buffers())
        needed = sum(t.numel() * t.element_size() for t in tensors.values())
        self._weights = {}  # the earlier copy goes first: both need not fit
        self._loss, self._number = loss, None
        if needed <= SHARE_OF_MEMORY * psutil.virtual_memory().available:
            self._weights = {n: t.detach().to("cpu", copy=True) for n, t in tensors.items()}
            self._number = number

    def load_into(self, model: torch.nn.Module, number: int) -> None:
        """Load the weights of trial `number`; if they are not here, the model refuses to be used, saying why."""
        if number == self._number:
            model.load_state_dict(self._weights, strict=False)
            self._weights, self._number = {}, None
            return
        message = (
            f"the weights of the best trial ({number}) were not saved: its training saved no checkpoint of its best "
            "evaluation. Set save_strategy (as eval_strategy) and search again, or train with the best hyperparameters"
        )

        def refuse(*_args: Any, **_kwargs: Any) -> Any:
            raise ModelNotSavedError(message)

        model.forward = refuse
        model.save_pretrained = refuse
