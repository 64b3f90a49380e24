"""What a Trainer's search hands back, and what of it goes to the Hub with the model."""

from __future__ import annotations

import pickle

import pytest
import tiny
import transformers
from huggingface_hub import ModelCard
from transformers import trainer_utils

import tunesmith
from tunesmith import Trainer, load_study, tunable
from tunesmith.best_run import BestRun
from tunesmith.errors import TunesmithError


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A Trainer after its search, and the best run."""
    trainer = tiny.make(Trainer, tmp_path_factory.mktemp("out"), compute_metrics=tiny.accuracy, num_train_epochs=1)
    best = trainer.hyperparameter_search(
        hp_space=lambda t: {"learning_rate": t.suggest_float("learning_rate", 1e-4, 1e-1, log=True)},
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=3, seed=0, progress=False,
    )  # fmt: skip
    return trainer, best


def test_it_is_transformers_named_tuple(searched):
    _, best = searched
    assert isinstance(best, trainer_utils.BestRun)
    run_id, objective, hyperparameters, study = best
    assert best == trainer_utils.BestRun(run_id, objective, hyperparameters, study)
    assert repr(best).startswith("BestRun(run_id=")
    assert list(best._asdict()) == ["run_id", "objective", "hyperparameters", "run_summary"]
    assert pickle.loads(pickle.dumps(best)).hyperparameters == hyperparameters
    assert best.trial.value == objective


def test_a_notebook_shows_the_run_and_the_study(searched):
    _, best = searched
    html = best._repr_html_()
    assert f"trial {best.run_id}: {best.objective}" in html
    assert html.count("<tr") == 1 + 3


def test_the_section_says_how_the_values_were_found(searched):
    _, best = searched
    text = best.model_card_section()
    assert text.startswith("## Hyperparameter search\n")
    assert "a search of 3 trials (3 complete; seed 0)" in text
    assert f"Trial {best.run_id} came to {best.objective:.5g} (objective: minimize)." in text
    assert f"| `learning_rate` | {best.hyperparameters['learning_rate']:.5g} | 0.0001 to 0.1, logarithmic |" in text


def test_the_models_card_has_the_section_tags_and_the_evaluation(searched):
    trainer, best = searched
    trainer.create_model_card(model_name="tiny", tasks="text-classification", dataset="made-up", tags=["mine"])
    card = ModelCard.load(f"{trainer.args.output_dir}/README.md")
    assert best.model_card_section() in card.text + "\n"
    assert {"mine", "tunesmith", "hyperparameter-search"} <= set(card.data.tags)
    found = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert found["loss"] == best.objective
    assert set(found) == {"loss", "accuracy"}
    (index,) = best.model_index(name="tiny", task="text-classification", dataset="made-up")
    assert {m["type"]: m["value"] for m in index["results"][0]["metrics"]} == found


def test_a_card_without_a_search_is_the_trainers(tmp_path):
    trainer = tiny.make(tunable(transformers.Trainer), tmp_path)
    trainer.create_model_card(model_name="tiny")
    assert "Hyperparameter search" not in (tmp_path / "README.md").read_text()


def test_texts_of_a_study_are_no_markup(tmp_path):
    def objective(trial):
        trial.suggest_categorical("a|b`<img>", ["<script>x</script>", "[x](javascript:y) | *z*"])
        return 0.0

    study = tunesmith.search(objective, 2, directory=tmp_path, study="<b>", seed=0, progress=False)
    text = BestRun("0", 0.0, {}, load_study(study.directory)).model_card_section()
    assert "<script" not in text
    assert "[x](" not in text
    assert text.splitlines()[-1].count("|") == 4


def test_a_study_in_which_nothing_came_to_a_value_has_no_section(tmp_path):
    study = tunesmith.search(lambda t: t.suggest_float("x", 0, 1), 1, directory=tmp_path, progress=False)
    with pytest.raises(TunesmithError, match=r"no trial of study .* has a value"):
        BestRun("none", float("nan"), {}, study).model_card_section()
