"""Checkpoints that are copied to a URL, and come back from there."""

import os
import shutil
import signal
from pathlib import Path

import fsspec
import pytest
import tiny
from fsspec.implementations.local import LocalFileSystem
from ray.tune.schedulers import FIFOScheduler
from transformers import TrainerCallback

from tunesmith import Trainer, load_study, search
from tunesmith.errors import MissingDependencyError, SettingError
from tunesmith.storage import Storage
from tunesmith.trial import TrialState


def write(place, text):
    (place / "inner").mkdir(parents=True, exist_ok=True)
    (place / "inner" / "weights").write_text(text)
    return place


def read(place):
    return (place / "inner" / "weights").read_text()


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_what_is_stored_is_what_lies_here_and_comes_back_whole(tmp_path, scheme):
    storage = Storage(f"{scheme}://{tmp_path}/there")
    study, run = tmp_path / "study", tmp_path / "study" / "run-3"
    for step in (1, 2, 3):
        storage.put(write(run / f"checkpoint-{step}", str(step)), study)
        if step == 2:
            shutil.rmtree(run / "checkpoint-1")
    storage.put(write(run / "checkpoint-3", "again"), study)
    shutil.rmtree(study)
    storage.bring(run / "checkpoint-3", study)
    assert {p.name: read(p) for p in run.iterdir()} == {"checkpoint-2": "2", "checkpoint-3": "again"}
    write(run / "checkpoint-3", "mine")
    storage.bring(run / "checkpoint-3", study)
    assert read(run / "checkpoint-3") == "mine"
    storage.bring(tmp_path / "study" / "run-4" / "checkpoint-1", study)
    assert not (tmp_path / "study" / "run-4" / "checkpoint-1").exists()


def test_what_cannot_be_stored_is_refused(tmp_path):
    with pytest.raises(SettingError, match="storage must be a URL that fsspec can open, got 'nowhere://x'"):
        search(lambda trial: 0.0, 1, directory=tmp_path / "study", storage_url="nowhere://x")
    assert not (tmp_path / "study").exists()
    with pytest.raises(SettingError, match="a checkpoint must lie in its trial's directory to be stored"):
        Storage(f"file://{tmp_path}/there").put(write(tmp_path / "elsewhere", ""), tmp_path / "study")


def test_a_scheme_whose_package_is_missing_says_what_to_install():
    from fsspec.registry import known_implementations

    known_implementations["tunesmith-test"] = {"class": "no_such_package.FS", "err": "install no_such_package"}
    try:
        with pytest.raises(MissingDependencyError, match="install no_such_package"):
            Storage("tunesmith-test://x")
    finally:
        del known_implementations["tunesmith-test"]


def lose_disk(trial):
    """At the first attempt the worker is killed, and with it goes what lay on its disk."""
    if trial.resume_from is not None:
        return float(read(Path(trial.resume_from)))
    trial.report(0.0, 1)
    trial.save_checkpoint(str(write(trial.directory / "checkpoint-1", "7")), 1)
    shutil.rmtree(trial.directory)
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@pytest.mark.usefixtures("small_ray")
@pytest.mark.filterwarnings("ignore:no worker has started")  # on a loaded machine
@pytest.mark.parametrize("tune", [False, True])
def test_in_ray_a_trial_goes_on_from_storage_when_its_disk_is_lost(tmp_path, tune):
    from ray import tune as ray_tune

    options = {"scheduler": FIFOScheduler(), "max_failures": 1} if tune else {"workers": 1}
    study = search(
        lose_disk,
        1,
        space={"x": ray_tune.uniform(0, 1)},
        backend="ray",
        directory=tmp_path / "study",
        storage_path=f"file://{tmp_path}/there",
        progress=False,
        **options,
    )
    (trial,) = study.trials
    assert (trial.state, trial.attempt, trial.values) == (TrialState.COMPLETE, 2, (7.0,))


class Interrupts(TrainerCallback):
    """Ctrl-C at the fourth epoch, once."""

    def __init__(self, flag):
        self.flag = flag

    def on_epoch_begin(self, args, state, control, **_):
        if state.epoch >= 3 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGINT)


class Guarded(LocalFileSystem):
    """A disk that asks for a password, such as storage that is reached by s3://key:secret@..."""

    protocol = "guarded"

    def __init__(self, password=None, **kwargs):
        super().__init__(**kwargs)
        if password != "opensesame":
            raise PermissionError(f"{password!r} is not the password")

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.rpartition("@")[2])

    @staticmethod
    def _get_kwargs_from_urls(path):
        return {"password": path.rpartition("@")[0].rpartition(":")[2]}


@pytest.mark.parametrize("url", ["file://{}", "guarded://me:opensesame@{}"])
def test_a_trainers_search_goes_on_from_storage_and_its_best_model_comes_from_there(tmp_path, url):
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    home, there = tmp_path / "home", tmp_path / "there"
    url = url.format(there)

    def go():
        trainer = tiny.make(
            Trainer, home, num_train_epochs=5, save_total_limit=1, callbacks=[Interrupts(tmp_path / "flag")]
        )
        best = trainer.hyperparameter_search(
            lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1)},
            n_trials=1,
            seed=1,
            progress=False,
            storage_url=url,
        )
        return trainer, best

    with pytest.raises(KeyboardInterrupt):
        go()
    before = load_study(home).trials[0]
    assert before.state is TrialState.PAUSED
    shutil.rmtree(home / "run-0")
    trainer, best = go()
    (trial,) = best.study.trials
    assert trial.reports[: len(before.reports)] == before.reports
    assert [r.step for r in trial.reports] == [8, 16, 24, 32, 40]
    assert [p.name for p in (there / "run-0").iterdir()] == ["checkpoint-40"]
    shutil.rmtree(home / "run-0")
    assert best.study.checkpoint(trial) is None
    assert best.study.bring(trial).is_dir()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-5)
    if "opensesame" in url:
        assert "opensesame" not in str(best.study.info.settings)
        shutil.rmtree(home / "run-0")
        with pytest.raises(SettingError, match=r"keeps no passwords.*guarded://\*\*\*@.*storage_url="):
            load_study(home).bring(trial)
        assert load_study(home, storage_url=url).bring(trial).is_dir()
