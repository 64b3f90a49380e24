"""An example script as users have them: HfArgumentParser, a Trainer, nothing of tunesmith."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import Points, TinyConfig, TinyModel, accuracy
from transformers import HfArgumentParser, Trainer, TrainerCallback, TrainingArguments


@dataclass
class ModelArguments:
    hidden: int = 8
    slow: float = 0.0


model_args, args = HfArgumentParser((ModelArguments, TrainingArguments)).parse_args_into_dataclasses()


class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step > 10 and Path("slow").exists():
            Path("at").write_text(f"{state.global_step}")
            time.sleep(model_args.slow)

    def on_train_begin(self, args, state, control, **_):
        print(f"rank {os.environ.get('RANK', '0')} begins at step {state.global_step}", flush=True)

    def on_train_end(self, args, state, control, **_):
        print(f"rank {os.environ.get('RANK', '0')} ends at step {state.global_step}", flush=True)


trainer = Trainer(
    model=TinyModel(TinyConfig(hidden=model_args.hidden)), args=args, train_dataset=Points(128, 0),
    eval_dataset=Points(64, 1), compute_metrics=accuracy, callbacks=[Slow()],
)  # fmt: skip
trainer.train()
trainer.save_model()
trainer.save_metrics("eval", trainer.evaluate())
