"""The size of a picture, in the words of those who want a shape instead."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from adapters.errors import BadRequest

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def size_of(size: str | None) -> tuple[int, int] | None:
    """Width and height in pixels of `1024x1536`; None for none and for `auto`. Raises `BadRequest`."""
    if size is None or size == "auto":
        return None
    found = _SIZE.fullmatch(size)
    if found is None or not int(found[1]) or not int(found[2]):
        raise BadRequest("Invalid value for 'size': expected WIDTHxHEIGHT or 'auto'.", param="size")
    return int(found[1]), int(found[2])


def nearest_ratio(size: tuple[int, int], ratios: Sequence[str]) -> str:
    """The one of `ratios` (`16:9`) that is nearest in shape."""
    shape = math.log(size[0] / size[1])

    def distance(ratio: str) -> float:
        width, _, height = ratio.partition(":")
        return abs(math.log(int(width) / int(height)) - shape)

    return min(ratios, key=distance)
