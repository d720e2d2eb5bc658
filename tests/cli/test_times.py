"""Times as people say them."""

from __future__ import annotations

import pytest

from fuseline.cli.times import ago, clock, duration, parse_age, size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30d", 30 * 86400),
        ("12h", 43200),
        ("90m", 5400),
        ("3600", 3600),
        ("45s", 45),
        ("2w", 14 * 86400),
        ("1.5h", 5400),
    ],
)
def test_an_age_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-3d", "3 months", "1e3", "٣d", "nan"])
def test_other_ages_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="Write 30d"):
        parse_age(text)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.99, "1 min"),
        (250, "4 min 10 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 4 * 3600, "3 d 4 h"),
        (-1, "0 ms"),
    ],
)
def test_a_duration_has_its_one_or_two_largest_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "just now"),
        (0.5, "just now"),
        (42, "42 s ago"),
        (200, "3 min ago"),
        (7300, "2 h ago"),
        (86400 * 40, "40 d ago"),
    ],
)
def test_how_long_ago_is_said_in_one_unit(seconds: float, said: str) -> None:
    assert ago(1_000_000.0, now=1_000_000.0 + seconds) == said


def test_a_moment_has_its_date_or_its_milliseconds() -> None:
    assert clock(1_700_000_000.25).startswith("2023-11-1")
    assert clock(1_700_000_000.25, date=False).endswith(".250")


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (99_960, "100 kB"), (4e6, "4.0 MB"), (3e12, "3.0 TB")],
)
def test_a_size_has_two_or_three_digits(count: float, said: str) -> None:
    assert size(count) == said
