"""Parameters as text that can be pasted where they are needed."""

from transformers import TrainingArguments

from tunesmith.arguments import identity
from tunesmith.settings_text import as_python


def test_a_call_of_training_arguments_can_be_run_also_with_what_model_init_has_suggested(tmp_path):
    params = {"learning_rate": 1e-5, "lr_scheduler_kwargs.power": 2.0, "dropout": 0.1}
    text = as_python(params, identity(TrainingArguments(str(tmp_path))))
    made = eval(text, {"TrainingArguments": lambda **given: TrainingArguments(str(tmp_path), **given)})
    assert (made.learning_rate, made.lr_scheduler_kwargs) == (1e-5, {"power": 2.0})
    assert text.endswith("\n# not of TrainingArguments: dropout = 0.1")


def test_without_arguments_it_is_a_dict():
    params = {"x": 1, "a.b": "c"}
    assert eval(as_python(params)) == {"x": 1, "a": {"b": "c"}}
