"""What a child says to its program: in order, complete, through memory or through the pipe."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from fuseline.channel import EncodingError, incoming
from fuseline.processes.line import LineEnd, ProgramLine
from fuseline.processes.outbox import _HALF, _LONGEST, _WORD, Outbox


class Said(msgspec.Struct, array_like=True, tag=True):
    number: int
    text: bytes = b""


DECODE = msgspec.msgpack.Decoder(Said).decode


@pytest.fixture
def outboxes() -> Iterator[tuple[Outbox, Outbox]]:
    """The child's and the program's."""
    program = Outbox()
    child = Outbox(os.dup(program._fd))
    yield child, program
    child.close()
    program.close()


def put(outbox: Outbox, message: bytes) -> bool:
    """Put a message in; return whether all of it is in there."""
    return not outbox.put(memoryview(message))


def take(outbox: Outbox) -> list[bytes]:
    messages: list[bytes] = []
    outbox.take(bytes, messages)
    return messages


def test_what_was_put_in_is_taken_out_once_and_in_order(outboxes: tuple[Outbox, Outbox]) -> None:
    child, program = outboxes
    assert take(program) == []
    assert put(child, b"one")
    assert put(child, b"")
    assert put(child, b"three")
    assert take(program) == [b"one", b"", b"three"]
    assert take(program) == []


@pytest.mark.parametrize("seed", range(5))
def test_messages_of_any_size_go_round(outboxes: tuple[Outbox, Outbox], seed: int) -> None:
    child, program = outboxes
    chance = random.Random(seed)
    said: list[bytes] = []
    heard: list[bytes] = []
    for _ in range(2000):
        said.append(chance.randbytes(chance.choice([1, 2, 3, 4, 5, 100, 5000, 60_000, _LONGEST, 3 * _LONGEST + 1])))
        left = memoryview(said[-1])
        while left := child.put(left):
            heard += take(program)
        if chance.random() < 0.1:
            heard += take(program)
    heard += take(program)
    assert heard == said


def test_nothing_unread_is_written_over(outboxes: tuple[Outbox, Outbox]) -> None:
    child, program = outboxes
    count = 0
    while put(child, b"%05d" % count):
        count += 1
    assert not put(child, b"no room")
    assert list(map(int, take(program))) == list(range(count))
    assert put(child, b"again")
    assert take(program) == [b"again"]


def test_half_of_a_message_is_none_yet(outboxes: tuple[Outbox, Outbox]) -> None:
    child, program = outboxes
    message = bytes(range(256)) * (_LONGEST // 64)
    left = memoryview(message)
    while left := child.put(left):
        assert take(program) == []
    assert take(program) == [message]


@pytest.mark.parametrize("words", [[0xFFFF_FFFF], [_HALF * _WORD], [0xFFFF_FFFE], [0x8000_0000], [2, 0, 0xFFFF_FF00]])
def test_what_somebody_has_written_over_is_an_error_and_no_loop(
    outboxes: tuple[Outbox, Outbox], words: list[int]
) -> None:
    child, program = outboxes
    for place, word in enumerate(words):
        child._words[place] = word
    with pytest.raises(ValueError, match="is none"):
        take(program)


# -- lines ------------------------------------------------------------------------------------------------------------


class Ends:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.sockets = ours, theirs
        outbox = Outbox()
        self.child = LineEnd(theirs.fileno(), Outbox(os.dup(outbox._fd))).open(incoming(Said))
        self.program: ProgramLine[Said] = ProgramLine(ours.fileno(), outbox, DECODE)

    def close(self) -> None:
        self.child._outbox.close()
        self.program.close()
        for each in self.sockets:
            each.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def test_small_things_wake_nobody_until_there_is_a_nudge(ends: Ends) -> None:
    ours, _ = ends.sockets
    ends.child.send(Said(1))
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    assert ends.child.nudge()
    assert ours.recv(100)
    assert ends.program.receive() == [Said(1)]


def test_large_things_come_in_their_turn(ends: Ends) -> None:
    sizes = [10, 3_000_000, 10, 20, 1_000_000, 2_000_000, 5]
    speaker = threading.Thread(target=lambda: [ends.child.send(Said(i, bytes(n))) for i, n in enumerate(sizes)])
    speaker.start()
    heard: list[Said] = []
    while len(heard) < len(sizes):
        heard += ends.program.receive()
    speaker.join()
    assert [(each.number, len(each.text)) for each in heard] == list(enumerate(sizes))


def test_who_has_much_to_say_waits_until_it_is_heard(ends: Ends) -> None:
    count = 40_000  # more than the outbox holds
    speaker = threading.Thread(target=lambda: [ends.child.send(Said(i, b"x" * 50)) for i in range(count)])
    speaker.start()
    heard: list[int] = []
    while len(heard) < count:
        heard += [each.number for each in ends.program.receive()]
    speaker.join()
    assert heard == list(range(count))


def test_the_end_of_a_child_is_seen_and_what_it_has_said_is_heard(ends: Ends) -> None:
    ends.child.send(Said(1))
    ends.sockets[1].close()
    assert ends.program.receive() == [Said(1)]
    assert ends.program.has_ended


def test_what_somebody_writes_into_the_pipe_is_no_more_than_a_nudge(ends: Ends) -> None:
    ends.sockets[1].send(b"garbage garbage garbage")
    ends.child.send(Said(1))
    assert ends.program.receive() == [Said(1)]
    assert not ends.program.has_ended


def test_nobody_waits_for_a_program_that_is_gone(ends: Ends) -> None:
    ends.sockets[0].close()
    while put(ends.child._outbox, b"full"):
        pass
    ends.child.send(Said(1))
    assert not ends.child.nudge()


def test_what_cannot_be_encoded_is_an_error_and_disturbs_nothing(ends: Ends) -> None:
    with pytest.raises(EncodingError):
        ends.child.send(Said(1 << 70))
    ends.child.send(Said(2))
    assert ends.program.receive() == [Said(2)]


def test_what_is_no_message_is_noticed_after_what_was_said(ends: Ends) -> None:
    ends.child.send(Said(1))
    assert ends.program.receive() == [Said(1)]
    assert not ends.program.is_garbled
    ends.child.send(Said(2))
    assert put(ends.child._outbox, b"garbage")
    assert ends.program.receive() == [Said(2)]
    assert ends.program.is_garbled
