"""IBM Cloud's tokens: fetched for a key, or named by the operator."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

import pytest

from adapters.errors import UpstreamAuth
from adapters.providers import PROVIDERS
from adapters.types import Address, Target
from gateway.config.model import Secret
from gateway.credentials import MAKERS, Signer, Signers
from gateway.credentials.iam import URL, FixedSigner, signer
from gateway.credentials.web import Web
from gateway.routes import Deployment

ADDRESS = Address(
    "POST", "https://us-south.ml.cloud.ibm.com/ml/v1/text/chat", (("accept", "application/json"),)
)
TARGET = Target(provider=PROVIDERS["watsonx"], model="m", base_url="https://us-south.ml.cloud.ibm.com")


class Desk(Web):
    """Answers as IBM's token service, and remembers what it was asked."""

    def __init__(
        self, status: int = 200, answer: bytes = b'{"access_token":"t-1","expires_in":3600}'
    ) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, Mapping[str, str] | None, bytes | None]] = []
        self._answer = (status, answer)

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float = 10.0,
    ) -> tuple[int, Mapping[str, str], bytes]:
        self.asked.append((method, url, headers, body))
        return self._answer[0], {}, self._answer[1]


def deployment(key: str | None = "k&y", credentials: dict[str, str | Secret] | None = None) -> Deployment:
    return Deployment(
        id="d",
        route="r",
        target=TARGET,
        api_key=Secret(key) if key else None,
        signer="iam",
        credentials=credentials or {},
    )


async def test_a_key_becomes_a_token() -> None:
    """One question to IBM, as a form; then requests carry the token."""
    desk = Desk()
    one: Signer = signer(deployment(), desk)
    ready_at_first = one.is_ready
    assert not ready_at_first
    await one.renew()
    assert one.is_ready
    assert one.sign(ADDRESS, b"") == {"accept": "application/json", "authorization": "Bearer t-1"}
    ((method, url, headers, body),) = desk.asked
    assert (method, url) == ("POST", URL)
    assert headers is not None
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert body is not None
    assert parse_qs(body.decode()) == {
        "grant_type": ["urn:ibm:params:oauth:grant-type:apikey"],
        "apikey": ["k&y"],
    }
    await one.close()


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (400, b'{"errorCode":"BXNIM0415E","errorMessage":"k&y is not valid"}', "status 400"),
        (200, b"<html>", "cannot be read"),
        (200, b"{}", "cannot be read"),
    ],
)
async def test_no_token(status: int, answer: bytes, message: str) -> None:
    """A refusal is the operator's affair, and is told without the key."""
    one = signer(deployment(), Desk(status, answer))
    with pytest.raises(UpstreamAuth, match=message) as refused:
        await one.renew()
    assert "k&y" not in refused.value.message
    await one.close()


async def test_no_key() -> None:
    """It is said what is missing."""
    one = signer(deployment(key=None), Desk())
    with pytest.raises(UpstreamAuth, match="WATSONX_APIKEY"):
        await one.renew()
    await one.close()


@pytest.mark.parametrize(
    ("credentials", "authorization"),
    [
        ({"token": Secret("t-9")}, "Bearer t-9"),
        ({"zen_api_key": Secret("z")}, "ZenApiKey z"),
        ({"token": "plain", "zen_api_key": Secret("z")}, "Bearer plain"),
    ],
)
async def test_a_token_that_is_named(credentials: dict[str, str | Secret], authorization: str) -> None:
    """Nobody is asked."""
    desk = Desk()
    one: Signer = signer(deployment(credentials=credentials), desk)
    assert isinstance(one, FixedSigner)
    assert one.is_ready
    await one.renew()
    assert one.sign(ADDRESS, b"")["authorization"] == authorization
    await one.close()
    assert desk.asked == []


async def test_it_is_known_by_its_kind() -> None:
    """A deployment of watsonx gets such a signer, and the same key the same one."""
    assert MAKERS["iam"] is signer
    signers = Signers(Desk())
    first, second = deployment(), deployment()
    assert signers.of(first) is signers.of(second)
    await signers.close()


async def test_another_configuration() -> None:
    """A signer that the new configuration needs too stays; one that nobody has needed for a whole configuration is given back."""
    signers = Signers(Desk())
    kept, unused = deployment(), deployment(key="wq-unused-11223")
    first, second = signers.of(kept), signers.of(unused)
    assert signers.turn() == []
    assert signers.of(deployment()) is first
    assert signers.turn() == [second]
    assert signers.turn() == [first]
    await signers.close()
