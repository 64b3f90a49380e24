"""The recipe of a Trainer: what each trial begins with is what the user's Trainer began with."""

from __future__ import annotations

import tiny
import torch
import transformers

import tunesmith


def test_an_optimizer_and_a_schedule_that_were_given_begin_each_trial_as_they_were(tmp_path):
    model = tiny.model_init()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 8))
    seen = []

    class Begins(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **_):
            seen.append((optimizer.param_groups[0]["lr"], len(optimizer.state)))

        def __deepcopy__(self, memo):
            return self

    trainer = tunesmith.Trainer(
        model=model,
        args=tiny.arguments(tmp_path, save_strategy="no", num_train_epochs=1),
        train_dataset=tiny.Points(128, 0),
        eval_dataset=tiny.Points(64, 1),
        optimizers=(optimizer, schedule),
        callbacks=[Begins()],
    )
    best = trainer.hyperparameter_search(
        lambda trial: {"max_grad_norm": trial.suggest_float("max_grad_norm", 1.0, 1.1)}, n_trials=3, progress=False
    )
    assert seen == [(1e-2, 0)] * 3
    assert len({round(t.value, 2) for t in best.study.trials}) == 1
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-2
