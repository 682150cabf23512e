"""Tokens of Entra ID, from a server on a real socket."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapters.errors import UpstreamAuth
from adapters.types import Address
from gateway.config.model import Config, LiteLLMSettings, ModelEntry, ModelParams, Place, Secret
from gateway.credentials import Signers
from gateway.pricing import PriceTable
from gateway.routes import Deployment, compile_routes

ADDRESS = Address("POST", "https://r.openai.azure.com/x", (("content-type", "application/json"),))
APPLICATION = {"tenant_id": "a/tenant", "client_id": "app", "client_secret": "s3cret-value"}


class Entra:
    """A token endpoint. It notes what it is asked and gives what `answer` says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        self.answer: Any = {"token_type": "Bearer", "expires_in": 3599, "access_token": "token-1"}
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append((request.raw_path, form | dict(request.query)))
        body = self.answer if isinstance(self.answer, str) else json.dumps(self.answer)
        return web.Response(status=self.status, text=body, content_type="application/json")


@pytest_asyncio.fixture
async def authority() -> AsyncIterator[Entra]:
    fake = Entra()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    async with TestServer(app) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


def deployment(environ: dict[str, str] | None = None, /, **options: str | Secret) -> Deployment:
    params = ModelParams(
        model="azure/gpt", api_base="https://r.openai.azure.com", options=options, api_version="2024-10-21"
    )
    config = Config(model_list=(ModelEntry(model_name="m", params=params, place=Place("", 0, 0)),))
    route = compile_routes(config, environ or {}, PriceTable.load()).find("m")
    assert route is not None
    return route.deployments[0]


async def token_of(one: Deployment) -> str:
    signers = Signers()
    try:
        signer = signers.of(one)
        assert signer is not None
        await signer.renew()
        assert signer.is_ready
        headers = signer.sign(ADDRESS, b"{}")
        assert headers["content-type"] == "application/json"
        assert "api-key" not in headers
        return headers["authorization"]
    finally:
        await signers.close()


async def test_a_token_as_it_is() -> None:
    """A token that was given is sent, whatever else is known."""
    one = deployment(azure_ad_token=Secret("given"), tenant_id="t")
    assert one.signer == "entra"
    assert await token_of(one) == "Bearer given"


async def test_a_token_of_another_kind() -> None:
    """LiteLLM's names of other tokens are no tokens."""
    with pytest.raises(UpstreamAuth, match="WorkloadIdentityCredential"):
        await token_of(deployment(azure_ad_token=Secret("oidc/file/var/token")))


async def test_an_application_with_a_secret(authority: Entra) -> None:
    """Tenant, client and secret are one POST; the scope is that of Cognitive Services if none is named."""
    one = deployment(**APPLICATION, azure_authority_host=authority.url)
    assert await token_of(one) == "Bearer token-1"
    ((path, form),) = authority.asked
    assert path == "/a%2Ftenant/oauth2/v2.0/token"
    assert form == {
        "grant_type": "client_credentials",
        "client_id": "app",
        "client_secret": "s3cret-value",
        "scope": "https://cognitiveservices.azure.com/.default",
    }


async def test_a_user_with_a_password(authority: Entra) -> None:
    """A user's name and password are one POST too, to any tenant if none is named."""
    user = {"client_id": "app", "azure_username": "ann", "azure_password": "pw"}
    one = deployment(**user, azure_authority_host=authority.url, azure_scope="https://ai.azure.com/.default")
    assert await token_of(one) == "Bearer token-1"
    ((path, form),) = authority.asked
    assert path == "/organizations/oauth2/v2.0/token"
    assert form["grant_type"] == "password"
    assert (form["username"], form["password"]) == ("ann", "pw")
    assert form["scope"] == "https://ai.azure.com/.default"


async def test_of_the_environment(authority: Entra) -> None:
    """Azure's own variables say the same, and what is written in the configuration wins."""
    environ = {
        "AZURE_TENANT_ID": "t",
        "AZURE_CLIENT_ID": "other",
        "AZURE_CLIENT_SECRET": "s",
        "AZURE_AUTHORITY_HOST": authority.url,
        "AZURE_SCOPE": "api://x/.default",
    }
    assert await token_of(deployment(environ, client_id="mine")) == "Bearer token-1"
    ((_, form),) = authority.asked
    assert (form["client_id"], form["client_secret"], form["scope"]) == ("mine", "s", "api://x/.default")


def test_a_key_is_enough() -> None:
    """With a key nothing is fetched, and half of an application's credentials is none."""
    assert deployment({"AZURE_API_KEY": "k"}, **APPLICATION).signer == ""
    assert deployment(tenant_id="t", client_id="c").signer == ""


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (
            401,
            {
                "error": "invalid_client",
                "error_description": "AADSTS7000215: Invalid client secret s3cret-value provided.",
            },
            "invalid_client AADSTS7000215",
        ),
        (200, {"access_token": "", "expires_in": 10}, "cannot be read"),
        (200, {"access_token": "x"}, "cannot be read"),
        (502, "<html>bad gateway", "cannot be read"),
        (200, "[]", "cannot be read"),
    ],
)
async def test_no_token(authority: Entra, status: int, answer: Any, words: str) -> None:
    """A refusal is an error of the operator's credentials, with Entra's code and without a secret."""
    authority.status, authority.answer = status, answer
    with pytest.raises(UpstreamAuth, match=words) as raised:
        await token_of(deployment(**APPLICATION, azure_authority_host=authority.url))
    assert "s3cret" not in str(raised.value)


async def test_expires_in_may_be_text(authority: Entra) -> None:
    """Some of its versions write the seconds as a string."""
    authority.answer = {"access_token": "t", "expires_in": "3599", "ext_expires_in": "3599"}
    one = deployment(**APPLICATION, azure_authority_host=authority.url)
    assert await token_of(one) == "Bearer t"


async def test_the_library(authority: Entra, monkeypatch: pytest.MonkeyPatch) -> None:
    """`azure_credential` names a credential of azure-identity: here a managed identity of App Service."""
    monkeypatch.setenv("IDENTITY_ENDPOINT", authority.url + "/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "x")
    authority.answer = {
        "access_token": "managed",
        "expires_on": str(int(time.time()) + 3600),
        "resource": "r",
        "token_type": "Bearer",
    }
    one = deployment(azure_credential="ManagedIdentityCredential", client_id="mine")
    assert one.signer == "azure_identity"
    assert await token_of(one) == "Bearer managed"
    ((path, form),) = authority.asked
    assert path.startswith("/msi/token")
    assert form["resource"] == "https://cognitiveservices.azure.com"
    assert form["client_id"] == "mine"


@pytest.mark.parametrize(
    ("environ", "credential"),
    [({}, "default"), ({"AZURE_CREDENTIAL": "AzureCliCredential"}, "AzureCliCredential")],
)
def test_litellms_setting(environ: dict[str, str], credential: str) -> None:
    """`enable_azure_ad_token_refresh` asks the library for every entry that has no key."""
    config = Config(
        model_list=(
            ModelEntry(
                model_name="m",
                params=ModelParams(model="azure/gpt", api_base="https://r.openai.azure.com"),
                place=Place("", 0, 0),
            ),
        ),
        litellm=LiteLLMSettings(enable_azure_ad_token_refresh=True),
    )
    route = compile_routes(config, environ, PriceTable.load()).find("m")
    assert route is not None
    assert route.deployments[0].signer == "azure_identity"
    assert route.deployments[0].credentials["azure_credential"] == credential


@pytest.mark.parametrize("name", ["Nonsense", "NonsenseCredential", "__name__"])
async def test_a_credential_that_nobody_knows(name: str) -> None:
    """A name that the library does not have is said."""
    with pytest.raises(UpstreamAuth, match="no credential of the name"):
        await token_of(deployment(azure_credential=name))


async def test_the_library_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library fails, only the kind of its error is told."""
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UpstreamAuth, match="CredentialUnavailableError"):
        await token_of(deployment(azure_credential="ClientSecretCredential"))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that needs the library says so where it is not installed."""
    monkeypatch.setattr("importlib.util.find_spec", _nothing)
    params = ModelParams(
        model="azure/gpt", api_base="https://r.openai.azure.com", options={"azure_credential": "default"}
    )
    config = Config(model_list=(ModelEntry(model_name="m", params=params, place=Place("", 0, 0)),))
    (unserved,) = compile_routes(config, {}, PriceTable.load()).unserved
    assert "pip install 'penstock[azure]'" in unserved.why


def _nothing(name: str) -> None:
    raise ModuleNotFoundError(name)
