"""Channels: a value from one writer to one or more readers, between threads or processes of one machine.

    channel = create_channel(ChannelSpec("hidden", "shm", readers=1))     whoever sets up
    writer = open_writer(channel.spec)                                    in the process that writes
    reader = open_reader(channel.spec, 0)                                 in the process that reads
    writer.write(value, 1);  reader.read(1)                               1: the execution number

The contract is in `channels.base`; `channels.testing.check_channel` checks it on any implementation. Nothing here knows
actors, graphs or engines.
"""

from __future__ import annotations

from types import ModuleType

from channels import local, shm
from channels._ring import wake, wake_fd
from channels.alarm import Alarm
from channels.base import Channel, ChannelStatistics, Failure, Reader, RemoteTraceback, Writer
from channels.errors import (
    ArenaFullError,
    ChannelBroken,
    ChannelClosed,
    ChannelError,
    ChannelTimeout,
    CommunicatorError,
    DagcError,
    MessageTooLargeError,
    MismatchError,
    SerializationError,
)
from channels.shm import empty
from channels.spec import ChannelSpec

__all__ = [
    "Alarm",
    "ArenaFullError",
    "Channel",
    "ChannelBroken",
    "ChannelClosed",
    "ChannelError",
    "ChannelSpec",
    "ChannelStatistics",
    "ChannelTimeout",
    "CommunicatorError",
    "DagcError",
    "Failure",
    "MessageTooLargeError",
    "MismatchError",
    "Reader",
    "RemoteTraceback",
    "SerializationError",
    "Writer",
    "create_channel",
    "empty",
    "open_reader",
    "open_writer",
    "wake",
    "wake_fd",
]

_TRANSPORTS: dict[str, ModuleType] = {"local": local, "shm": shm}


def create_channel(spec: ChannelSpec) -> Channel:
    """Make the channel and its memory; the `spec` of what is returned says where it is. Raises ArenaFullError."""
    _transport(spec)
    channel: Channel = shm.ShmChannel(spec) if spec.transport == "shm" else local.LocalChannel(spec)
    return channel


def open_writer(spec: ChannelSpec) -> Writer:
    """Open the writing end, once. Raises ChannelBroken if the channel cannot be reached from this process."""
    writer: Writer = _transport(spec).open_writer(spec)
    return writer


def open_reader(spec: ChannelSpec, index: int = 0) -> Reader:
    """Open reading end `index`, once. Raises ChannelBroken if the channel cannot be reached from this process."""
    reader: Reader = _transport(spec).open_reader(spec, index)
    return reader


def _transport(spec: ChannelSpec) -> ModuleType:
    try:
        return _TRANSPORTS[spec.transport]
    except KeyError:
        known = ", ".join(sorted(_TRANSPORTS))
        raise ValueError(f"channel {spec.name!r}: unknown transport {spec.transport!r}; there are: {known}") from None
