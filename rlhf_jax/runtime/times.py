"""When a stage was at work: from the clock in its TensorBoard files, of which each session writes one of its own."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (it is made at import)


class Session(NamedTuple):
    """From the opening of the file to the last row in it, in seconds since 1970. What was compiled before the first step is
    in it; the last save is not."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def sessions(folder: Path) -> list[Session]:
    """The sessions of a stage's folder, the earliest first; [] where it has no TensorBoard files. A file is read up to where
    it is torn."""
    found = []
    for path in (folder / "tensorboard").glob("events.out.tfevents.*"):
        times = [time for time in _times(path.read_bytes()) if time > 0]
        if times:
            found.append(Session(min(times), max(times)))
    return sorted(found)


def _times(data: bytes) -> Iterator[float]:
    """Of each event. A record is its length (8 bytes), that one's checksum (4), the event, its checksum (4)."""
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = data[at + 12 : at + 12 + length]
        if len(event) < length:
            return
        try:
            yield Event.FromString(event).wall_time
        except Exception:  # protobuf's DecodeError, whose place has moved between its versions
            return
        at += length + 16
