"""A search of a Trainer's hyperparameters under DeepSpeed, for test_deepspeed.py: the stage of ZeRO, a folder, a step to die at."""

import json
import os
import signal
import sys
from pathlib import Path

import tiny
import torch
from transformers import TrainerCallback

from tunesmith import Trainer

STAGE, FOLDER, LAST = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])


class Steps(TrainerCallback):
    """Notes each step with the rate that DeepSpeed's optimizer has, and dies at one."""

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        with (FOLDER / "steps.jsonl").open("a", encoding="utf-8") as file:
            rate = optimizer.param_groups[0]["lr"]
            file.write(
                json.dumps([state.trial_name, state.global_step, state.trial_params["learning_rate"], rate]) + "\n"
            )
        if state.trial_name == "run-1" and state.global_step == LAST:
            os.kill(os.getpid(), signal.SIGKILL)


trainer = tiny.make(
    Trainer,
    FOLDER / "study",
    callbacks=[Steps()],
    use_cpu=False,
    lr_scheduler_type="constant",
    deepspeed={
        "zero_optimization": {"stage": STAGE},
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
    },
)
best = trainer.hyperparameter_search(
    hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)},
    n_trials=3,
    seed=0,
    progress=False,
)
loss = 0.0
with torch.no_grad():
    for point in trainer.eval_dataset:
        loss += float(trainer.model(x=point["x"][None], labels=point["labels"][None])["loss"])
facts = {
    "best": best.objective,
    "loss": loss / len(trainer.eval_dataset),
    "trials": [[t.state.value, t.reason, t.attempt] for t in best.run_summary.trials],
}
(FOLDER / "found.json").write_text(json.dumps(facts), encoding="utf-8")
