"""What W&B's run files hold: the rows that a killed process has got to disk, which may be fewer than it has logged.

W&B's client hands each row to a process of its own, which writes it a little later and dies with the client. The format
is that of LevelDB's log (blocks of 32 KiB, records in pieces of them) with W&B's protocol buffers in it; W&B's package
has no reader of it in Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_BLOCK = 32768  # bytes
_IDENTITY = 7  # bytes at the file's start
_HEADER = 7  # bytes before each piece: checksum (4), length (2, little endian), kind (1)
_WHOLE, _LAST = 1, 4  # kinds of pieces that end a record


def rows(directory: Path, run_id: str) -> Iterator[dict[str, Any]]:
    """The rows of a run by name, without W&B's own (`_step`), from all its files below a study's directory, in order.

    Of a value that is a dictionary one of its values is given. A file that was cut off, or is none of W&B's, is read as
    far as it goes.
    """
    from google.protobuf.message import DecodeError  # noqa: PLC0415  comes with wandb
    from wandb.proto.wandb_internal_pb2 import Record  # noqa: PLC0415  an optional package

    for path in sorted(directory.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")):
        with suppress(DecodeError):
            for raw in _records(path.read_bytes()):
                record = Record.FromString(raw)
                if record.WhichOneof("record_type") == "history":
                    named = {item.nested_key[0] if item.nested_key else item.key: item for item in record.history.item}
                    yield {k: json.loads(v.value_json) for k, v in named.items() if not k.startswith("_")}


def _records(data: bytes) -> Iterator[bytes]:
    at, record = _IDENTITY, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # too little for a piece: the block's end is padding
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece = data[at + _HEADER : at + _HEADER + length]
        if kind == 0 or len(piece) < length:
            return
        record += piece
        at += _HEADER + length
        if kind in (_WHOLE, _LAST):
            yield record
            record = b""
