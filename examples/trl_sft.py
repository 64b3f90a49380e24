"""TRL's SFTTrainer, which takes no model_init: its model's weights are put back before each trial. Offline and tiny.

Needs: pip install "tunesmith[transformers]" trl
"""

from __future__ import annotations

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

import tunesmith

texts = [f"{a} plus {b} is {a + b} ." for a in range(12) for b in range(12)]
bare = Tokenizer(models.WordLevel(unk_token="[UNK]"))
bare.pre_tokenizer = pre_tokenizers.Whitespace()
bare.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]", "[EOS]"]))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]")
data = Dataset.from_dict({"text": texts}).train_test_split(test_size=0.25, seed=0)

set_seed(0)
model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=32, eos_token_id=tokenizer.eos_token_id
    )
)
trainer = tunesmith.tunable(SFTTrainer)(
    model=model,
    args=SFTConfig(
        output_dir="sft-search",
        num_train_epochs=2,
        per_device_train_batch_size=16,
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to=[],
        use_cpu=True,
        bf16=False,
        max_length=16,
    ),
    train_dataset=data["train"],
    eval_dataset=data["test"],
    processing_class=tokenizer,
)
best = trainer.hyperparameter_search(
    hp_space=lambda trial: {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        "neftune_noise_alpha": trial.suggest_float("neftune_noise_alpha", 1.0, 10.0),
    },
    compute_objective=lambda metrics: metrics["eval_loss"],  # the default adds up all metrics, the token count included
    n_trials=4,
    seed=0,
)
print("best", best.objective, best.hyperparameters, "again:", trainer.evaluate()["eval_loss"])
