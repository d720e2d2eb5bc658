"""Values in files: large buffers beside their pickle, mapped by those who load them."""

from __future__ import annotations

import array
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from fuseline.encoding import decode, encode, encode_checked
from fuseline.errors import StoreError
from fuseline.value_files import SharedMaps, map_read_only, map_value, write_value
from fuseline.values import Value
from fuseline.workplace import LARGE, Workplace


class Buffered:
    """What numpy's arrays are to pickle: an object with memory of its own."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Buffered, (pickle.PickleBuffer(self.data),)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    (tmp_path / "values").mkdir()
    return Workplace(presence=tmp_path / "me", values=tmp_path / "values")


def test_parts_come_back_as_they_were(tmp_path: Path) -> None:
    parts = [b"first", b"", bytes(range(256)) * 100, b"x"]
    with open(tmp_path / "value", "wb") as file:
        write_value(file, parts)
    assert list(map(bytes, map_value(str(tmp_path / "value")))) == parts


def test_a_file_that_is_nothing_but_a_pickle_is_read(tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_bytes(pickle.dumps([1, 2, 3], 5))
    assert decode(Value(file=str(path))) == [1, 2, 3]


@pytest.mark.parametrize("made", [encode, encode_checked])
def test_a_large_buffer_goes_to_a_file_of_which_every_reader_has_a_copy_of_its_own(place: Workplace, made: Any) -> None:
    value = made([Buffered(bytearray(b"a" * 2 * LARGE)), "small"], "this", place)
    assert not value.data
    one, small = decode(value)
    two, _ = decode(value)
    assert small == "small"
    assert bytes(one.data) == b"a" * 2 * LARGE
    memoryview(one.data)[0] = ord("b")
    assert bytes(one.data[:2]) == b"ba"
    assert bytes(two.data[:2]) == bytes(decode(value)[0].data[:2]) == b"aa"


def test_a_map_may_be_read_only(place: Workplace) -> None:
    value = encode(Buffered(bytearray(b"a" * 2 * LARGE)), "this", place)
    data = decode(value, map_read_only).data
    with pytest.raises(TypeError, match="read-only"):
        memoryview(data)[0] = 1


def test_readers_share_a_map_until_nobody_needs_the_file(place: Workplace) -> None:
    value = encode(Buffered(bytearray(b"a" * 2 * LARGE)), "this", place)
    maps = SharedMaps()
    assert not maps
    one, two = decode(value, maps.map).data, decode(value, maps.map).data
    assert mapped(value.file) == 1
    del one
    maps.drop_unneeded()
    assert maps
    assert mapped(value.file) == 1
    os.unlink(value.file)
    maps.drop_unneeded()
    assert not maps
    assert bytes(two[:2]) == b"aa"
    del two
    assert mapped(value.file) == 0


def test_few_maps_are_kept(place: Workplace) -> None:
    values = [encode(Buffered(bytearray(2 * LARGE)), "this", place) for _ in range(20)]
    maps = SharedMaps()
    for value in values:
        decode(value, maps.map)
    assert sum(mapped(value.file) for value in values) == 8
    assert mapped(values[-8].file) == 1
    maps.clear()
    assert sum(mapped(value.file) for value in values) == 0


def test_a_map_holds_no_descriptor(place: Workplace) -> None:
    value = encode(Buffered(bytearray(2 * LARGE)), "this", place)
    before = os.listdir("/dev/fd")
    kept = decode(value)
    assert os.listdir("/dev/fd") == before
    assert mapped(value.file) == 1
    del kept


def mapped(path: str) -> int:
    """Return how often this process has a file mapped."""
    return Path("/proc/self/maps").read_text().count(path)


def test_a_small_buffer_stays_in_the_pickle(place: Workplace) -> None:
    value = encode(Buffered(bytearray(b"a" * 100)), "this", place)
    assert not value.file
    assert bytes(decode(value).data) == b"a" * 100


def test_what_is_large_and_no_buffer_goes_to_a_file_as_well(place: Workplace) -> None:
    for each in (b"x" * 2 * LARGE, list(range(LARGE)), array.array("d", range(LARGE)), {"a": "b" * 2 * LARGE}):
        value = encode_checked(each, "this", place)
        assert value.file
        assert decode(value) == each


def test_without_a_place_everything_travels() -> None:
    value = encode(Buffered(bytearray(b"a" * 2 * LARGE)))
    assert not value.file
    assert bytes(decode(value).data) == b"a" * 2 * LARGE


def test_what_only_cloudpickle_can_pickle_has_its_buffers_once(place: Workplace) -> None:
    value = encode([Buffered(bytearray(b"a" * 2 * LARGE)), lambda: 1], "this", place)
    buffered, call = decode(value)
    assert (bytes(buffered.data), call()) == (b"a" * 2 * LARGE, 1)
    assert Path(value.file).stat().st_size < 3 * LARGE


@pytest.mark.parametrize("content", [None, b""])
def test_a_file_that_is_gone_or_empty_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "value"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="a value cannot be read"):
        decode(Value(file=str(path)))


def test_where_there_is_no_room_it_is_said_and_nothing_left(place: Workplace) -> None:
    assert place.values is not None
    place.values.rmdir()
    with pytest.raises(StoreError, match="cannot keep this"):
        encode(Buffered(bytearray(b"a" * 2 * LARGE)), "this", place)
