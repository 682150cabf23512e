"""Where deployments and callers are."""

from __future__ import annotations

import pytest

from gateway.routing.geography import REGION_HEADERS, caller_region, continent_of, nearness, region_of
from tests.gateway.routing.choosing import route_of


@pytest.mark.parametrize(
    ("region", "continent"),
    [
        ("us-east-1", "north america"),
        ("eastus2", "north america"),
        ("westus", "north america"),
        ("northcentralus", "north america"),
        ("us-central1", "north america"),
        ("ca-central-1", "north america"),
        ("CA", "north america"),
        ("us", "north america"),
        ("eu-west-1", "europe"),
        ("westeurope", "europe"),
        ("europe-west4", "europe"),
        ("swedencentral", "europe"),
        ("germanywestcentral", "europe"),
        ("uksouth", "europe"),
        ("eu-de", "europe"),
        ("eu", "europe"),
        ("DE", "europe"),
        ("fra", "europe"),
        ("ap-southeast-2", "oceania"),
        ("australiaeast", "oceania"),
        ("ap-southeast-1", "asia"),
        ("asia-southeast1", "asia"),
        ("southeastasia", "asia"),
        ("japaneast", "asia"),
        ("centralindia", "asia"),
        ("jp", "asia"),
        ("sa-east-1", "south america"),
        ("brazilsouth", "south america"),
        ("southamerica-east1", "south america"),
        ("me-south-1", "middle east"),
        ("uaenorth", "middle east"),
        ("af-south-1", "africa"),
        ("southafricanorth", "africa"),
        ("au-syd", "oceania"),
        ("jp-tok", "asia"),
        ("br-sao", "south america"),
        ("eusc-de-east-1", "europe"),
        ("global", ""),
        ("", ""),
        ("xx", ""),
    ],
)
def test_continents(region: str, continent: str) -> None:
    """Regions of the clouds and countries have a continent; what is not known has none."""
    assert continent_of(region) == continent


def test_nearness() -> None:
    """The same region is nearer than the same continent, and what is unknown is near to nobody."""
    assert nearness("eu-west-1", "eu-west-1") == 2
    assert nearness("eu-west-1", "de") == 1
    assert nearness("eu-west-1", "us") == 0
    assert nearness("", "") == 0
    assert nearness("global", "xx") == 0


@pytest.mark.parametrize("header", REGION_HEADERS)
def test_callers(header: str) -> None:
    """Each header of the networks in front is read, in small letters and without the city."""
    assert caller_region({header: "DE,Berlin"}) == "de"
    assert caller_region({}) == ""


def test_deployments() -> None:
    """`region_name` goes before `model_info.region`, and that before what the cloud needs to know."""
    named = {"model": "bedrock/x", "region_name": "eu-west-1", "options": {"aws_region_name": "us-east-1"}}
    route = route_of(named, {}, info={"region": "JP"})
    assert [region_of(one) for one in route.deployments] == ["eu-west-1", "jp"]
    (bare,) = route_of({"model": "bedrock/x", "options": {"aws_region_name": "us-east-1"}}).deployments
    assert region_of(bare) == "us-east-1"
    (nowhere,) = route_of({}).deployments
    assert region_of(nowhere) == ""


def test_what_callers_write_is_not_kept_for_ever() -> None:
    """Any number of made-up regions is answered, in bounded memory."""
    assert {continent_of(f"zz-{number}") for number in range(5_000)} == {""}
