"""Channel: whole messages over a pipe, whatever the other end does."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import msgspec
import pytest

from fuseline.channel import Channel, EncodingError, ProtocolError, incoming


class Text(msgspec.Struct, array_like=True, tag=True):
    text: str


class Blob(msgspec.Struct, array_like=True, tag=True):
    data: bytes
    more: float | None = None

    def __post_init__(self) -> None:
        if self.more == 13.0:
            raise LookupError("unlucky")


Message = Text | Blob
INCOMING = incoming(Message)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


Pair = tuple[socket.socket, socket.socket]


Ends = Channel[Message, Message]


def channels(pair: Pair) -> tuple[Ends, Ends]:
    return Channel(pair[0].fileno(), INCOMING), Channel(pair[1].fileno(), INCOMING)


def exchange(sender: Ends, receiver: Ends, count: int) -> list[Message]:
    """Move bytes both ways by turns, as two loops would, until ``count`` messages have come."""
    messages: list[Message] = []
    while len(messages) < count:
        sender.flush()
        messages += receiver.receive()
    return messages


def test_messages_come_whole_and_in_order(pair: Pair) -> None:
    sender, receiver = channels(pair)
    sender.send(Blob(b"x", 1.5))
    sender.put(Blob(b""))
    sender.put(Text("two"))
    sender.flush()
    assert list(receiver.receive()) == [Blob(b"x", 1.5), Blob(b""), Text("two")]
    assert list(receiver.receive()) == []


def test_a_value_larger_than_the_pipe_blocks_neither_end(pair: Pair) -> None:
    sender, receiver = channels(pair)
    big = os.urandom(5_000_000)
    sender.put(Blob(big))
    sender.put(Blob(b"tail"))
    assert not sender.flush()
    sender.send(Text("next"))
    assert exchange(sender, receiver, 3) == [Blob(big), Blob(b"tail"), Text("next")]
    assert sender.flush()


def test_a_message_that_comes_byte_by_byte_is_understood(pair: Pair) -> None:
    sender, receiver = channels(pair)
    sender.put(Text("ä\n"))
    sender.send(Blob(bytes(range(256))))
    raw = pair[1].recv(10_000)
    got: list[Message] = []
    for byte in raw:
        pair[0].send(bytes([byte]))
        got += receiver.receive()
    assert got == [Text("ä\n"), Blob(bytes(range(256)))]


def test_a_blocking_end_waits_for_a_message(pair: Pair) -> None:
    pair[1].setblocking(True)
    sender, receiver = channels(pair)
    sender.send(Text("hello"))
    assert list(receiver.receive()) == [Text("hello")]
    pair[0].close()
    assert list(receiver.receive()) == []
    assert receiver.has_ended


def test_what_was_sent_before_the_end_is_read_before_it(pair: Pair) -> None:
    sender, receiver = channels(pair)
    sender.send(Text("last words"))
    pair[0].close()
    assert list(receiver.receive()) == [Text("last words")]
    assert list(receiver.receive()) == []
    assert receiver.has_ended


def test_half_a_message_and_the_end_is_no_message(pair: Pair) -> None:
    sender, receiver = channels(pair)
    sender.send(Blob(b"x" * 1000))
    raw = pair[1].recv(10_000)
    pair[0].send(raw[: len(raw) // 2])
    pair[0].close()
    assert list(receiver.receive()) == []
    assert list(receiver.receive()) == []
    assert receiver.has_ended


def test_sending_to_an_end_that_is_gone_is_no_error(pair: Pair) -> None:
    sender, _ = channels(pair)
    pair[1].close()
    sender.send(Blob(b"x" * 1_000_000))
    assert sender.flush()


def frame(body: bytes) -> bytes:
    return b"FL" + struct.pack("!Q", len(body)) + body


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage" * 10,
        b"FL" + b"\xff" * 8,  # a body of 16 EiB
        frame(b"nope"),
        frame(b""),
        frame(msgspec.msgpack.encode({})),
        frame(msgspec.msgpack.encode([1])),
        frame(msgspec.msgpack.encode([["Text"]])),
        frame(msgspec.msgpack.encode([["Text", 1]])),
        frame(msgspec.msgpack.encode([["Other", "text"]])),
        frame(msgspec.msgpack.encode([["Blob", b"", 13.0]])),
        frame(msgspec.msgpack.encode([["Text", "text"]]) + b"\0"),
        frame(b"\x91" * 100_000),  # nested deeper than any stack
    ],
)
def test_garbage_is_refused(pair: Pair, garbage: bytes) -> None:
    _, receiver = channels(pair)
    pair[0].send(garbage)
    with pytest.raises(ProtocolError):
        list(receiver.receive())


def test_messages_before_garbage_are_heard(pair: Pair) -> None:
    sender, receiver = channels(pair)
    sender.send(Text("good"))
    pair[0].send(b"garbage" * 10)
    heard = []
    with pytest.raises(ProtocolError):
        heard.extend(receiver.receive())
    messages = receiver.receive()
    assert heard == [Text("good")]
    pair[0].send(b"more")
    with pytest.raises(ProtocolError):
        next(messages)


def test_what_waits_for_the_pipe_can_be_withdrawn(pair: Pair) -> None:
    sender, receiver = channels(pair)
    big = bytes(5_000_000)
    sender.send(Blob(big))
    sender.send(Text("unwanted"))
    sender.send(Text("wanted"))
    sender.withdraw(lambda message: message == Text("unwanted"))
    assert exchange(sender, receiver, 2) == [Blob(big), Text("wanted")]


def test_what_cannot_be_encoded_is_dropped_and_the_rest_is_sent(pair: Pair) -> None:
    sender, receiver = channels(pair)
    odd = Text("\udcff")
    for message in (Text("before"), odd, Text("after")):
        sender.put(message)
    with pytest.raises(EncodingError) as caught:
        sender.flush()
    assert caught.value.message is odd
    assert sender.flush()
    assert list(receiver.receive()) == [Text("before"), Text("after")]


def test_a_frame_beyond_the_limit_is_refused(pair: Pair) -> None:
    sender = channels(pair)[0]
    receiver: Ends = Channel(pair[1].fileno(), INCOMING, 100)
    sender.send(Text("x" * 50))
    assert list(receiver.receive()) == [Text("x" * 50)]
    sender.send(Text("x" * 100))
    with pytest.raises(ProtocolError):
        list(receiver.receive())
