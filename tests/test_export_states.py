"""Exports of trials in every state, and of several objectives, held against what Optuna and pandas make of them."""

import math

import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

from tunesmith.errors import SettingError
from tunesmith.export import export, to_dataframe, to_optuna
from tunesmith.trial import Report, Trial, TrialState

SPACE = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "layers": IntDistribution(1, 8),
    "schedule": CategoricalDistribution(["linear", None, 3]),
}
BEGIN = 1_700_000_000.0
TRIALS = (
    Trial(
        0,
        TrialState.COMPLETE,
        {"lr": 0.01, "layers": 2, "schedule": "linear"},
        SPACE,
        reports=(Report(50, (0.9,), {"loss": 0.9}), Report(100, (0.5,), {"loss": 0.5})),
        values=(0.5,),
        metrics={"loss": 0.5},
        started=BEGIN,
        ended=BEGIN + 60,
    ),
    Trial(
        1,
        TrialState.PRUNED,
        {"lr": 0.02, "layers": 3, "schedule": None},
        SPACE,
        reports=(Report(50, (2.0,)),),
        reason="pruned: worse than the median",
        started=BEGIN,
        ended=BEGIN + 10,
    ),
    Trial(2, TrialState.FAILED, {"lr": 0.03}, {"lr": SPACE["lr"]}, reason="oom: CUDA", started=BEGIN, ended=BEGIN + 1),
    Trial(3, TrialState.RUNNING, {"lr": 0.04}, {"lr": SPACE["lr"]}, started=BEGIN),
    Trial(4, TrialState.PAUSED),
    Trial(5, TrialState.WAITING, offered={"lr": 0.05}),
)


def opened_journal(tmp_path):
    path = export(TRIALS, ["minimize"], "s", tmp_path / "new" / "study.journal")
    return optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))))


@pytest.mark.parametrize("give", [lambda _: to_optuna(TRIALS, ["minimize"], "s"), opened_journal])
def test_optuna_sees_every_state_and_the_true_steps(tmp_path, give):
    study = give(tmp_path)
    assert [t.state for t in study.trials] == [
        OptunaState.COMPLETE,
        OptunaState.PRUNED,
        OptunaState.FAIL,
        OptunaState.RUNNING,
        OptunaState.WAITING,
        OptunaState.WAITING,
    ]
    assert study.trials[0].params == TRIALS[0].params
    assert study.trials[0].distributions == SPACE
    assert study.trials[0].intermediate_values == {50: 0.9, 100: 0.5}
    assert study.trials[0].duration.total_seconds() == 60
    assert study.trials[2].user_attrs["reason"] == "oom: CUDA"
    assert (study.best_trial.number, study.best_value) == (0, 0.5)


def test_columns_have_one_type_each_and_times_are_utc():
    frame = to_dataframe(TRIALS, ["minimize"])
    assert list(frame["state"]) == [t.state.value for t in TRIALS]
    assert (frame["params_layers"].dtype, frame["params_lr"].dtype) == ("Int64", "float64")
    assert list(frame["params_schedule"].dropna()) == ["linear"]
    assert str(frame["started"][0]) == "2023-11-14 22:13:20+00:00"
    assert (frame["seconds"][0], frame["last_step"][0], frame["metrics_loss"][0]) == (60, 100, 0.5)


def test_parquet_keeps_the_types(tmp_path):
    pytest.importorskip("pyarrow")
    frame = to_dataframe(TRIALS, ["minimize"])
    back = pd.read_parquet(export(TRIALS, ["minimize"], "s", tmp_path / "study.parquet"))
    assert list(back.dtypes.astype(str)) == list(frame.dtypes.astype(str))


def test_no_trials_give_the_columns_all_the_same():
    frame = to_dataframe((), ["minimize", "maximize"])
    assert len(frame) == 0
    assert {"number", "state", "value_0", "value_1"} <= set(frame.columns)


def test_several_objectives_reach_optuna_s_pareto_set():
    trials = [
        Trial(n, TrialState.COMPLETE, values=v, reports=(Report(1, v),), started=1.0, ended=2.0)
        for n, v in enumerate([(1.0, 1.0), (2.0, 2.0), (3.0, 0.0)])
    ]
    assert {t.number for t in to_optuna(trials, ["minimize", "maximize"], "s").best_trials} == {0, 1}


def test_a_completed_trial_without_a_finite_value_is_a_failed_one_to_optuna():
    trial = Trial(0, TrialState.COMPLETE, values=(math.nan,), started=1.0, ended=2.0)
    assert to_optuna([trial], ["minimize"], "s").trials[0].state is OptunaState.FAIL


def test_a_file_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "study.log").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingError, match="this export is written to a new place"):
        export(TRIALS, ["minimize"], "s", tmp_path / "study.log")
    assert (tmp_path / "study.log").read_text(encoding="utf-8") == "mine"
