"""Sizes and rates as people write them."""

from __future__ import annotations

import pytest
from outrider_server.core.errors import StartupError
from outrider_server.planning.units import format_bytes, parse_bytes, parse_rate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80GiB", 80 * 2**30),
        ("80GB", 80 * 10**9),
        ("512MiB", 512 * 2**20),
        ("512 MB", 512 * 10**6),
        ("1.5TiB", 3 * 2**39),
        (".5gib", 2**29),
        ("7B", 7),
    ],
)
def test_a_size_is_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "80", "GiB", "-1GiB", "0GiB", "80 GiB x", "1e3GB", "80Gb/s"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(StartupError, match="write it as 80GiB"):
        parse_bytes(text)


def test_a_rate_is_read() -> None:
    assert parse_rate("3.35TB/s") == 3.35e12
    assert parse_rate("900 GB/s") == 9e11


@pytest.mark.parametrize("text", ["3.35TB", "TB/s", "3.35TB/h", "0TB/s", "/s", "3 /s"])
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(StartupError, match=r"write it as 3\.35TB/s"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (14_483_464_192, "13.49 GiB")],
)
def test_bytes_are_written_in_the_largest_unit(count: int, expected: str) -> None:
    assert format_bytes(count) == expected
