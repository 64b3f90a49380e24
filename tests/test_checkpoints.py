"""Which checkpoints can be gone on from, in every format that a Trainer saves."""

import pytest

from tunesmith import checkpoints


def saved(run, step, *names, state=True):
    path = run / f"checkpoint-{step}"
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("global_step4" if name == "latest" else "")
    if state:
        (path / "trainer_state.json").write_text("{}")
    return path


FORMATS = {
    "one file": ["model.safetensors"],
    "several files": ["model-00001-of-00002.safetensors", "model.safetensors.index.json"],
    "adapter": ["adapter_model.safetensors"],
    "DeepSpeed's shards": ["global_step4/zero_pp_rank_0_mp_rank_00_model_states.pt", "latest"],
    "FSDP's shards": ["pytorch_model_fsdp_0/__0_0.distcp"],
    "FSDP's file": ["pytorch_model_fsdp.bin"],
}


@pytest.mark.parametrize("names", FORMATS.values(), ids=FORMATS)
def test_the_newest_whole_checkpoint_up_to_the_recorded_one_is_gone_on_from(tmp_path, names):
    saved(tmp_path, 2, *names)
    whole = saved(tmp_path, 4, *names)
    saved(tmp_path, 6, *names, state=False)
    recorded = saved(tmp_path, 8, "optimizer.pt")
    saved(tmp_path, 10, *names)
    assert checkpoints.resumable(recorded) == whole


def test_a_folder_that_deepspeed_has_named_and_not_written_is_no_checkpoint(tmp_path):
    assert not checkpoints.whole(saved(tmp_path, 4, "latest"))
