"""Settings for all tests: offline, one thread, quiet; and a Ray for those that share one."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def small_ray():
    """One Ray of two CPUs for all tests of a file; its address."""
    import ray

    settings = {"include_dashboard": False, "object_store_memory": 80 * 2**20, "log_to_driver": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # they leave files open
        yield ray.init(address="local", num_cpus=2, logging_level="ERROR", **settings).address_info["address"]
        ray.shutdown()
