"""LoRA with PEFT: the rank is chosen in model_init. Offline, on a tiny GPT-2 from a config."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments, default_data_collator, set_seed

from tunesmith import Trainer

torch.manual_seed(0)
tokens = (torch.arange(24)[None] * torch.randint(1, 5, (96, 1))) % 50
data = [{"input_ids": row, "labels": row} for row in tokens]


def model_init(trial=None):
    """The same base model each time, with adapters of the rank that the trial asks for."""
    set_seed(0)
    rank = 4 if trial is None else trial.suggest_categorical("lora_rank", [2, 4, 8])
    base = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32))
    lora = LoraConfig(r=rank, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    return get_peft_model(base, lora)


def space(trial):
    """LoRA likes higher learning rates than full fine-tuning."""
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


trainer = Trainer(
    model=None,
    args=TrainingArguments(
        output_dir="lora-search",
        num_train_epochs=2,
        per_device_train_batch_size=16,
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to=[],
        use_cpu=True,
    ),
    train_dataset=data[:72],
    eval_dataset=data[72:],
    data_collator=default_data_collator,
    model_init=model_init,
)
best = trainer.hyperparameter_search(hp_space=space, n_trials=4, seed=0)
print("best", best.objective, best.hyperparameters, "again:", trainer.evaluate()["eval_loss"])
