"""What a rank shuts to be free of a broken process group, and what it must leave alone."""

from datetime import timedelta

import pytest
import torch.distributed as dist

from tunesmith.runners.collectives import Collective

SOON = timedelta(seconds=5)


class NativeServer:
    """A server of native code in this process, and somebody's connection to it, as Ray's is to an actor."""

    def __init__(self):
        self.server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.client = dist.TCPStore("127.0.0.1", self.server.port, is_master=False, timeout=SOON)
        self.client.set("key", "value")


@pytest.fixture
def group():
    """A function that makes a process group of gloo's."""
    yield lambda: dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    dist.destroy_process_group()


def test_connections_to_servers_that_were_there_before_the_group_stay_and_later_ones_are_cut(group):
    before = NativeServer()
    collective = Collective(None, 0, 1, key="k")
    after = NativeServer()
    group()
    collective.abort()
    assert before.client.get("key") == b"value"
    with pytest.raises(RuntimeError):
        after.client.get("key")
