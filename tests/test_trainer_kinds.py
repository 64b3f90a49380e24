"""Trainers of other kinds: sequence to sequence, TRL's and sentence-transformers', on tiny models from configs."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

import tunesmith

# what these libraries use of each other and will not for long
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "DeprecationWarning")]

TEXTS = [f"{a} plus {b} is {a + b} ." for a in range(5) for b in range(5)]
SETTINGS = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
    "logging_strategy": "no",
}


@pytest.fixture(scope="module")
def tokenizer():
    bare = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    bare.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]", "[EOS]"]))
    return PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]")


def gpt2(tokenizer, kind=GPT2LMHeadModel, **settings):
    set_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=32,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
    return kind(config)


def rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def search(trainer, space=rates, n_trials=2):
    """Search, and check that the values differ."""
    best = tunesmith.hyperparameter_search(
        trainer, space, lambda metrics: metrics["eval_loss"], n_trials, seed=0, progress=False
    )
    trials = best.run_summary.trials
    assert [t.state.value for t in trials] == ["COMPLETE"] * n_trials, [t.detail for t in trials]
    assert len({t.value for t in trials}) == n_trials
    return best


def test_seq2seq(tmp_path, tokenizer):
    def model_init():
        return T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=16,
                d_kv=8,
                d_ff=16,
                num_layers=1,
                num_heads=2,
                decoder_start_token_id=1,
                pad_token_id=1,
            )
        )

    rows = [{"input_ids": (ids := tokenizer(text)["input_ids"]), "labels": ids} for text in TEXTS]
    lengths = []

    class Seen(Seq2SeqTrainer):
        def prediction_step(self, *args, **kwargs):
            lengths.append(self._gen_kwargs["max_length"])
            return super().prediction_step(*args, **kwargs)

    trainer = tunesmith.tunable(Seen)(
        model_init=model_init,
        args=Seq2SeqTrainingArguments(str(tmp_path), predict_with_generate=True, generation_max_length=5, **SETTINGS),
        train_dataset=rows,
        eval_dataset=rows[:8],
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        compute_metrics=lambda prediction: {"tokens": float(prediction.predictions.size)},
    )

    def space(trial):
        return {**rates(trial), "generation_max_length": trial.suggest_int("generation_max_length", 4, 6)}

    best = search(trainer, space)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-5)
    assert lengths[:2] == [t.params["generation_max_length"] for t in best.run_summary.trials]


def test_sft_prepares_its_data_once_for_all_trials(tmp_path, tokenizer):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": TEXTS})
    prepared = []
    trainer = tunesmith.tunable(trl.SFTTrainer)(
        model=gpt2(tokenizer),
        args=trl.SFTConfig(str(tmp_path), bf16=False, max_length=16, **SETTINGS),
        train_dataset=data,
        eval_dataset=data.select(range(5)),
        processing_class=tokenizer,
        formatting_func=lambda row: prepared.append(row) or row["text"],
    )
    built = len(prepared)
    assert built == 30
    best = search(trainer, n_trials=3)
    assert len(prepared) - built == 30
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-5)

    def space(trial):
        return {**rates(trial), "max_length": trial.suggest_categorical("max_length", [4, 8])}

    search(trainer, space)
    assert len(prepared) - built > 60  # lengths differ, and so does what is prepared


def test_a_trainer_of_trl_that_exists_already(tmp_path, tokenizer):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": TEXTS})
    trainer = trl.SFTTrainer(
        model=gpt2(tokenizer),
        args=trl.SFTConfig(str(tmp_path), bf16=False, max_length=16, **SETTINGS),
        train_dataset=data,
        eval_dataset=data.select(range(5)),
        processing_class=tokenizer,
    )
    best = search(trainer)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-5)
    assert type(trainer) is trl.SFTTrainer


def test_dpo_takes_beta_from_the_trial(tmp_path, tokenizer):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    gpt2(tokenizer).save_pretrained(tmp_path / "model")  # DPO loads its reference model from where the model is
    data = datasets.Dataset.from_dict({"prompt": ["1 plus 2 is"], "chosen": [" 3 ."], "rejected": [" 5 ."]})
    data = datasets.concatenate_datasets([data] * 16)
    betas = []

    class Seen(trl.DPOTrainer):
        def compute_loss(self, *args, **kwargs):
            betas.append(self.beta)
            return super().compute_loss(*args, **kwargs)

    trainer = tunesmith.tunable(Seen)(
        model=GPT2LMHeadModel.from_pretrained(tmp_path / "model"),
        args=trl.DPOConfig(str(tmp_path / "out"), bf16=False, max_length=16, **SETTINGS),
        train_dataset=data,
        eval_dataset=data.select(range(4)),
        processing_class=tokenizer,
    )
    best = search(trainer, lambda trial: {**rates(trial), "beta": trial.suggest_float("beta", 0.05, 0.9)})
    assert list(dict.fromkeys(betas))[:2] == [t.params["beta"] for t in best.run_summary.trials]


def test_a_reward_trainer(tmp_path, tokenizer):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"chosen": ["1 plus 2 is 3 ."] * 16, "rejected": ["1 plus 2 is 5 ."] * 16})
    trainer = tunesmith.tunable(trl.RewardTrainer)(
        model=gpt2(tokenizer, GPT2ForSequenceClassification, num_labels=1),
        args=trl.RewardConfig(str(tmp_path), bf16=False, max_length=16, **SETTINGS),
        train_dataset=data,
        eval_dataset=data.select(range(4)),
        processing_class=tokenizer,
    )
    search(trainer)


def test_a_sentence_transformer(tmp_path, tokenizer):
    library, datasets = pytest.importorskip("sentence_transformers"), pytest.importorskip("datasets")
    parts = pytest.importorskip("sentence_transformers.models")
    losses = pytest.importorskip("sentence_transformers.losses")
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=16, **sizes)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")

    def model_init(trial=None):
        words = parts.Transformer(str(tmp_path / "bert"))
        return library.SentenceTransformer(modules=[words, parts.Pooling(16)], device="cpu")

    data = datasets.Dataset.from_dict({"anchor": TEXTS, "positive": TEXTS[1:] + TEXTS[:1]})
    trainer = tunesmith.tunable(library.SentenceTransformerTrainer)(
        model_init=model_init,
        args=library.SentenceTransformerTrainingArguments(str(tmp_path / "out"), **SETTINGS),
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        loss=losses.MultipleNegativesRankingLoss,
    )
    best = search(trainer)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-5)
