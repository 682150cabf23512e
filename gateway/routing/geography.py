"""Where deployments and callers are, coarsely: enough to keep a request on its continent.

A deployment's region is what was written of it, in a cloud's words (`eu-west-1`, `swedencentral`, `asia-southeast1`) or as a
country (`DE`) or continent (`eu`). A caller's is what the network in front of the gateway says in a header, mostly a country.
Anybody can send such a header where nothing in front sets it; all that it changes is who answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gateway.routes import Deployment

REGION_HEADERS: Final = (
    "x-client-region",
    "cf-ipcountry",
    "x-vercel-ip-country",
    "cloudfront-viewer-country",
    "x-appengine-country",
    "fly-client-region",
    "fly-region",
    "x-client-geo-location",
)
"""What says where a caller is, the first that is there: ours, Cloudflare, Vercel, CloudFront, App Engine, Fly, Google's
load balancers (https://cloud.google.com/load-balancing/docs/https/custom-headers: `region,city`).
"""

_OPTIONS = ("aws_region_name", "vertex_location", "watsonx_region_name")

_COUNTRIES: Final = {
    country: continent
    for continent, countries in {
        "africa": "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW IO KE KM LR LS LY MA MG ML MR MU "
        "MW MZ NA NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TF TG TN TZ UG YT ZA ZM ZW",
        "asia": "AF BD BN BT CC CN CX HK ID IN JP KG KH KP KR KZ LA LK MM MN MO MV MY NP PH PK SG TH TJ TL TM TW UZ VN",
        "europe": "AD AL AT AX BA BE BG BY CH CY CZ DE DK EE ES EU FI FO FR GB GE GG GI GR HR HU IE IM IS IT JE LI LT LU LV "
        "MC MD ME MK MT NL NO PL PT RO RS RU SE SI SJ SK SM UA UK VA XK",
        "middle east": "AE AM AZ BH IL IQ IR JO KW LB OM PS QA SA SY TR YE",
        "north america": "AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX NI PA PM PR "
        "SV SX TC TT US VC VG VI",
        "oceania": "AS AU CK FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV UM VU WF WS",
        "south america": "AR BO BR CL CO EC FK GF GY PE PY SR UY VE",
    }.items()
    for country in countries.lower().split()
}
"""Continents of countries by ISO 3166-1 alpha-2; the Middle East is one of its own, as clouds see it."""

_PATTERNS: Final = tuple(
    (continent, re.compile(pattern))
    for continent, pattern in {
        "oceania": r"^(ap-southeast-[246]|au-|australia|newzealand|oceania|(syd|mel|akl)$)",
        "south america": r"^(sa-|br-|southamerica|south-america|brazil|chile|(gru|gig|scl|eze|bog)$)",
        "north america": r"^(us-|us\d*$|usgov|ca-|mx-|northamerica|north-america|na-|.*us\d*$"
        r"|canada|mexico|(iad|ewr|ord|dfw|den|lax|sjc|sea|atl|mia|bos|phx|yyz|yul)$)",
        "middle east": r"^(me-|il-|uae|qatar|israel|saudi|middle-?east)",
        "africa": r"^(af-|africa|southafrica|jnb$)",
        "europe": r"^(eu-|eusc-|eu\d*$|europe|(north|west)europe|uk|france|germany|swiss|switzerland|sweden|norway|poland|italy|spain|"
        r"austria|belgium|denmark|finland|greece|(fra|ams|lhr|cdg|mad|arn|waw|otp|mil)$)",
        "asia": r"^(ap-|ap$|jp-|in-|kr-|apac|asia|.*asia$|japan|korea|jio|.*india$|indonesia|malaysia|taiwan|china|cn-|(nrt|hkg|sin|bom|icn)$)",
    }.items()
)
"""How regions of AWS, Azure, Google, Fly and IBM begin or end; the first that fits."""

_known: dict[str, str] = {}
_MOST_KNOWN = 2_000
"""Callers write headers as they like: what is remembered of them has an end."""


def continent_of(region: str) -> str:
    """The continent of a region or country; empty if it is not known."""
    found = _known.get(region)
    if found is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        found = _known[region] = _find(region)
    return found


def _find(region: str) -> str:
    plain = re.sub(r"[_ ]+", "-", region.strip().lower())
    country = _COUNTRIES.get(plain)
    if country is not None:
        return country
    return next((continent for continent, pattern in _PATTERNS if pattern.search(plain)), "")


def region_of(deployment: Deployment) -> str:
    """Where a deployment is, in small letters: `region_name`, `model_info.region`, or its cloud's own setting; empty if nobody
    said.
    """
    region: str | None = deployment.notes.get("region")
    if region is None:
        params, options = deployment.params, deployment.target.options
        written = (params.region_name if params is not None else None) or deployment.info.get("region")
        written = written or next((options[name] for name in _OPTIONS if options.get(name)), "")
        region = deployment.notes["region"] = str(written).strip().lower()
    return region


def caller_region(headers: Mapping[str, str]) -> str:
    """Where the network in front of us says that a caller is, in small letters; empty if it does not."""
    for name in REGION_HEADERS:
        written = headers.get(name)
        if written:
            return written.partition(",")[0].strip().lower()[:60]
    return ""


def nearness(region: str, caller: str) -> int:
    """2: the same region or country. 1: the same continent. 0: neither, or not known."""
    if region == caller:
        return 2 if region else 0
    continent = continent_of(region)
    return 1 if continent and continent == continent_of(caller) else 0
