"""A search whose Trainer is to push to the Hub, for test_push.py: push_script.py FOLDER (ours|plain)."""

import sys

import tiny
import transformers

import tunesmith


class Plain(transformers.Trainer):
    """A class that pushes by itself."""

    def push_to_hub(self, *args, **kwargs):
        return super().push_to_hub(*args, **kwargs)


kind = {"ours": tunesmith.Trainer, "plain": Plain}[sys.argv[2]]
trainer = tiny.make(kind, sys.argv[1], num_train_epochs=1, save_strategy="epoch", eval_strategy="epoch",
                    push_to_hub=True, hub_model_id="me/model", hub_token="hf_secret")  # fmt: skip
for resume in ("auto", False):  # the second one begins a study beside
    tunesmith.hyperparameter_search(
        trainer,
        hp_space=lambda t: {"learning_rate": t.suggest_float("learning_rate", 1e-4, 1e-1, log=True)},
        n_trials=2, seed=0, progress=False, resume=resume,
    )  # fmt: skip
print("searched", flush=True)
trainer.push_to_hub()
