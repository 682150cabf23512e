"""Sizes and shapes of pictures."""

from __future__ import annotations

import pytest

from adapters.errors import BadRequest
from adapters.pictures import nearest_ratio, size_of


def test_sizes() -> None:
    """OpenAI's sizes, and none."""
    assert size_of("1024x1536") == (1024, 1536)
    assert size_of("auto") is None
    assert size_of(None) is None


@pytest.mark.parametrize("size", ["", "1024", "1024x", "0x1", "1x0", "1024×1024", "-1x1", "123456x1"])
def test_no_size(size: str) -> None:
    """Anything else is the caller's mistake, with its place."""
    with pytest.raises(BadRequest) as refused:
        size_of(size)
    assert refused.value.param == "size"


@pytest.mark.parametrize(
    ("size", "ratio"),
    [
        ((1024, 1024), "1:1"),
        ((1792, 1024), "16:9"),
        ((1024, 1792), "9:16"),
        ((1536, 1024), "3:2"),
        ((1, 9), "9:16"),
    ],
)
def test_the_nearest_shape(size: tuple[int, int], ratio: str) -> None:
    """Wide stays wide, and high high."""
    assert nearest_ratio(size, ("1:1", "16:9", "9:16", "3:2", "2:3")) == ratio
