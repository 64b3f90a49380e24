"""Hyperparameters as TrainingArguments: typed conversion, nested values, names that nothing reads."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import transformers

from tunesmith import arguments
from tunesmith.errors import SettingError


@pytest.fixture
def args(tmp_path):
    return tiny.arguments(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("fp16_full_eval", "False", False),
        ("fp16_full_eval", 1, True),
        ("learning_rate", "1e-4", 1e-4),
        ("num_train_epochs", 3, 3.0),
        ("per_device_train_batch_size", 16.0, 16),
        ("seed", "7", 7),
        ("lr_scheduler_type", "cosine", transformers.SchedulerType.COSINE),
        ("max_grad_norm", 1, 1.0),
        ("label_names", None, None),
    ],
)
def test_values_are_converted_to_the_fields_type(args, name, value, expected):
    changed = getattr(arguments.fresh(args, {name: value}), name)
    assert changed == expected
    assert type(changed) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_device_train_batch_size", 1.5),
        ("learning_rate", "fast"),
        ("fp16_full_eval", "perhaps"),
        ("seed", True),
        ("lr_scheduler_type", "wavy"),
    ],
)
def test_values_that_cannot_be_converted_are_refused(args, name, value):
    with pytest.raises((SettingError, ValueError), match=f"{name}|{value}"):
        arguments.fresh(args, {name: value})


def test_a_warmup_ratio_stays_one_where_transformers_reads_it_so(args):
    if transformers.__version__.startswith("4"):
        with pytest.raises(SettingError, match="warmup_steps must be int"):
            arguments.fresh(args, {"warmup_steps": 0.1})
    else:
        assert arguments.fresh(args, {"warmup_steps": 0.1}).warmup_steps == 0.1


def test_nested_values_reach_dicts_and_strings(args):
    args.lr_scheduler_kwargs = {"num_cycles": 1}
    args.optim_args = "beta=1"
    changed = arguments.fresh(args, {"lr_scheduler_kwargs.num_cycles": 4, "optim_args.gamma": 2})
    assert changed.lr_scheduler_kwargs == {"num_cycles": 4}
    assert changed.optim_args == "beta=1,gamma=2"
    assert args.lr_scheduler_kwargs == {"num_cycles": 1}


def test_a_nested_value_reaches_what_is_text_or_an_object_and_was_not_set(args):
    changed = arguments.fresh(args, {"optim_args.momentum": 0.5, "accelerator_config.split_batches": True})
    assert changed.optim_args == "momentum=0.5"
    assert changed.accelerator_config.split_batches
    assert not args.accelerator_config.split_batches


def test_the_users_arguments_do_not_change(args):
    before = args.to_dict()
    changed = arguments.fresh(args, {"learning_rate": 0.5, "weight_decay": 0.1})
    assert changed is not args
    assert args.to_dict() == before


def test_a_name_that_model_init_reads_is_known(args):
    def helper(trial):
        return trial.params["lora_r"]

    def init(trial):
        return tiny.TinyModel(tiny.TinyConfig(hidden=trial.params.get("width", 8) + helper(trial)))

    names = ["lora_r", "width", "learning_rate", "weigth_decay", "zzzz"]
    assert arguments.unknown_names(names, args, object(), init) == {"weigth_decay": "weight_decay", "zzzz": None}


def test_identity_ignores_where_output_goes(tmp_path):
    here, there = tiny.arguments(tmp_path / "a"), tiny.arguments(tmp_path / "b")
    assert arguments.identity(here) == arguments.identity(there)
    assert arguments.identity(here) != arguments.identity(tiny.arguments(tmp_path / "a", weight_decay=0.3))


def test_an_object_without_a_text_of_its_own_is_the_same_at_the_next_start(tmp_path):
    @dataclasses.dataclass
    class Arguments(transformers.TrainingArguments):
        thing: object = None

    one, other = (Arguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], thing=object()) for _ in range(2))
    assert arguments.identity(one) == arguments.identity(other)


def test_what_the_arguments_compute_is_refused_with_the_name_of_what_can_be_set(args):
    with pytest.raises(SettingError, match=r"train_batch_size cannot be set: .*mean 'per_device_train_batch_size'"):
        arguments.fresh(args, {"train_batch_size": 8})


@pytest.mark.parametrize("name", ["optimizer", "model", "train", "data_collator"])
def test_the_parts_and_methods_of_a_trainer_are_no_hyperparameters(tmp_path, name):
    trainer = tiny.make(transformers.Trainer, tmp_path)
    assert not arguments.is_setting(trainer, name)
    assert name in arguments.unknown_names([name], trainer.args, trainer, None)
    trainer.focal_gamma = [2.0]
    assert arguments.is_setting(trainer, "focal_gamma")
