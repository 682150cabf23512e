"""The neutral types."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Units, Usage

counts = st.integers(0, 10**9)
usages = st.builds(
    Usage,
    input=counts,
    cache_read=counts,
    cache_write=counts,
    cache_write_1h=counts,
    audio_input=counts,
    output=counts,
    reasoning=counts,
    audio_output=counts,
    estimated=st.booleans(),
    image_input=counts,
    image_output=counts,
    units=st.builds(Units, images=counts, milliseconds=counts, characters=counts, searches=counts),
    billed=st.none() | counts,
)

NO_TOKENS = {"estimated", "units", "billed", "tier"}


@given(usages)
def test_each_token_is_in_one_bucket(usage: Usage) -> None:
    """The totals are the sums of the buckets, and no bucket is in both."""
    buckets = [value for name, value in msgspec.structs.asdict(usage).items() if name not in NO_TOKENS]
    assert usage.total == usage.prompt + usage.completion == sum(buckets)


@given(usages, usages)
def test_usages_add_up(one: Usage, other: Usage) -> None:
    """The sum of two has the sum of each bucket, and is an estimate if one of them is."""
    both = one + other
    assert both == other + one
    assert both.total == one.total + other.total
    assert both.cache_write_1h == one.cache_write_1h + other.cache_write_1h
    assert both.units.images == one.units.images + other.units.images
    assert both.estimated == (one.estimated or other.estimated)
