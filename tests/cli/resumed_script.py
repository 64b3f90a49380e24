"""A search of a Trainer on the ranks of a job, which stops in the middle of its second trial until it is killed."""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny
import torch
from transformers import TrainerCallback

from tunesmith import Trainer

RANK = os.environ["RANK"]
KILLED = Path("killed").exists()


def note(**facts):
    with Path(f"rank-{RANK}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"again": KILLED, **facts}) + "\n")


class Wait(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        note(run=state.trial_name, step=state.global_step)
        if (state.trial_name, state.global_step) == ("run-1", 6) and not KILLED:
            Path(f"at-{RANK}").touch()
            time.sleep(600)


best = tiny.make(Trainer, "s", callbacks=[Wait()]).hyperparameter_search(
    hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)},
    n_trials=3,
    seed=0,
    progress=False,
)
note(best=best.run_id, ranks=int(os.environ["WORLD_SIZE"]))
torch.distributed.destroy_process_group()
