"""Channel: whole messages over a pipe, whatever the other end does."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from fuseline.processes.channel import Channel, Message, ProtocolError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


Pair = tuple[socket.socket, socket.socket]


def exchange(sender: Channel, receiver: Channel, count: int) -> list[Message]:
    """Move bytes both ways by turns, as two loops would, until ``count`` messages have come."""
    messages: list[Message] = []
    while len(messages) < count:
        sender.flush()
        messages += receiver.receive()
    return messages


def test_messages_come_whole_and_in_order(pair: Pair) -> None:
    sender, receiver = Channel(pair[0].fileno()), Channel(pair[1].fileno())
    sender.send(["one", 1, None], [b"x", b"", b"yy"])
    sender.send(["two"])
    assert list(receiver.receive()) == [(["one", 1, None], [b"x", b"", b"yy"]), (["two"], [])]
    assert list(receiver.receive()) == []


def test_a_value_larger_than_the_pipe_blocks_neither_end(pair: Pair) -> None:
    sender, receiver = Channel(pair[0].fileno()), Channel(pair[1].fileno())
    big = os.urandom(5_000_000)
    sender.send(["big"], [big, b"tail"])
    assert not sender.flush()
    sender.send(["next"])
    assert exchange(sender, receiver, 2) == [(["big"], [big, b"tail"]), (["next"], [])]
    assert sender.flush()


def test_a_message_that_comes_byte_by_byte_is_understood(pair: Pair) -> None:
    sender, receiver = Channel(pair[0].fileno()), Channel(pair[1].fileno())
    sender.send(["text", "ä\udcff\n"], [bytes(range(256))])
    raw = pair[1].recv(10_000)
    got: list[Message] = []
    for byte in raw:
        pair[0].send(bytes([byte]))
        got += receiver.receive()
    assert got == [(["text", "ä\udcff\n"], [bytes(range(256))])]


def test_a_blocking_end_waits_for_a_message(pair: Pair) -> None:
    pair[1].setblocking(True)
    sender, receiver = Channel(pair[0].fileno()), Channel(pair[1].fileno())
    sender.send(["hello"])
    assert list(receiver.receive()) == [(["hello"], [])]
    pair[0].close()
    assert list(receiver.receive()) == []
    assert receiver.has_ended


def test_what_was_sent_before_the_end_is_read_before_it(pair: Pair) -> None:
    sender, receiver = Channel(pair[0].fileno()), Channel(pair[1].fileno())
    sender.send(["last words"])
    pair[0].close()
    assert list(receiver.receive()) == [(["last words"], [])]
    assert list(receiver.receive()) == []
    assert receiver.has_ended


def test_half_a_message_and_the_end_is_no_message(pair: Pair) -> None:
    sender, receiver = Channel(pair[0].fileno()), Channel(pair[1].fileno())
    sender.send(["cut"], [b"x" * 1000])
    raw = pair[1].recv(10_000)
    pair[0].send(raw[: len(raw) // 2])
    pair[0].close()
    assert list(receiver.receive()) == []
    assert list(receiver.receive()) == []
    assert receiver.has_ended


def test_sending_to_an_end_that_is_gone_is_no_error(pair: Pair) -> None:
    sender = Channel(pair[0].fileno())
    pair[1].close()
    sender.send(["anybody?"], [b"x" * 1_000_000])
    assert sender.flush()


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage" * 10,
        b"FL\xff\xff\xff\xff" + b"\0" * 8,  # a header of 4 GiB
        b"FL\0\0\0\x02" + b"\xff" * 8,  # a body of 16 EiB
        b"FL\0\0\0\x04" + b"\0" * 8 + b"nope",
        b"FL\0\0\0\x02" + b"\0" * 8 + b"{}",
        b"FL\0\0\0\x02" + b"\0" * 8 + b"[]",
        b"FL\0\0\0\x07" + b"\0" * 8 + b"[[1,2]]",
        b"FL\0\0\0\x06" + b"\0" * 8 + b"['a']\xff",
    ],
)
def test_garbage_is_refused(pair: Pair, garbage: bytes) -> None:
    receiver = Channel(pair[1].fileno())
    pair[0].send(garbage)
    with pytest.raises(ProtocolError):
        list(receiver.receive())


def test_messages_before_garbage_are_heard(pair: Pair) -> None:
    sender, receiver = Channel(pair[0].fileno()), Channel(pair[1].fileno())
    sender.send(["good"], [b"x"])
    pair[0].send(b"garbage" * 10)
    heard = []
    with pytest.raises(ProtocolError):
        heard.extend(receiver.receive())
    messages = receiver.receive()
    assert heard == [(["good"], [b"x"])]
    pair[0].send(b"more")
    with pytest.raises(ProtocolError):
        next(messages)
