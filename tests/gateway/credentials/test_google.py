"""Tokens of Google's, from a server on a real socket: each kind of credentials, renewal, failures without secrets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from adapters.errors import UpstreamAuth
from adapters.types import Address
from gateway.config.model import Config, ModelEntry, ModelParams, Place, Secret
from gateway.credentials import Signers
from gateway.credentials.google import GoogleSigner, _from_info
from gateway.credentials.web import Web
from gateway.pricing import PriceTable
from gateway.routes import Deployment, compile_routes

ADDRESS = Address("POST", "https://aiplatform.googleapis.com/x", (("content-type", "application/json"),))


class Google:
    """Its token endpoints. It notes what it is asked and gives what `answer` says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        self.answer: Any = None
        self.seconds = 3599
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        said = await request.json() if request.content_type == "application/json" else await request.post()
        self.asked.append((request.path, dict(said)))
        answer = self.answer
        if answer is None:
            token = f"token-{len(self.asked)}"
            answer = {"access_token": token, "expires_in": self.seconds, "token_type": "Bearer"}
            if "generateAccessToken" in request.path:
                answer = {"accessToken": token, "expireTime": "2099-01-01T00:00:00Z"}
        return web.Response(status=self.status, text=json.dumps(answer), content_type="application/json")


@pytest_asyncio.fixture
async def google() -> AsyncIterator[Google]:
    fake = Google()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    async with TestServer(app) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


@cache
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def account(google: Google, **more: str) -> dict[str, str]:
    return {
        "type": "service_account",
        "project_id": "a-project",
        "private_key_id": "k1",
        "private_key": private_key(),
        "client_email": "robot@a-project.iam.gserviceaccount.com",
        "token_uri": f"{google.url}/token",
        **more,
    }


def deployment(environ: dict[str, str] | None = None, **options: str | Secret) -> Deployment:
    params = ModelParams(model="vertex_ai/gemini-2.5-pro", options=options)
    config = Config(model_list=(ModelEntry(model_name="m", params=params, place=Place("", 0, 0)),))
    route = compile_routes(config, environ or {}, PriceTable.load()).find("m")
    assert route is not None
    return route.deployments[0]


async def headers_of(one: Deployment) -> dict[str, str]:
    signers = Signers()
    try:
        signer = signers.of(one)
        assert signer is not None
        await signer.renew()
        assert signer.is_ready
        headers = signer.sign(ADDRESS, b"{}")
        assert headers["content-type"] == "application/json"
        return headers
    finally:
        await signers.close()


async def failure_of(given: str) -> str:
    client = Web()
    signer = GoogleSigner(given, client)
    try:
        with pytest.raises(UpstreamAuth) as caught:
            await signer.renew()
        assert not signer.is_ready
        return caught.value.message
    finally:
        await signer.close()
        await client.close()


async def test_a_service_account(google: Google) -> None:
    """Its key, as JSON text, is exchanged for a token; the project is the key's if none is named."""
    one = deployment(vertex_credentials=Secret(json.dumps(account(google))))
    assert one.signer == "google"
    assert one.target.options["vertex_project"] == "a-project"
    assert (await headers_of(one))["authorization"] == "Bearer token-1"
    ((path, form),) = google.asked
    assert path == "/token"
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert form["assertion"].count(".") == 2


async def test_a_file(google: Google, tmp_path: Path) -> None:
    """A path does as well, and so does the variable that all of Google's libraries know."""
    file = tmp_path / "key.json"
    file.write_text(json.dumps(account(google)))
    for one in (
        deployment(vertex_credentials=Secret(str(file)), vertex_project="mine"),
        deployment({"GOOGLE_APPLICATION_CREDENTIALS": str(file), "GOOGLE_CLOUD_PROJECT": "mine"}),
    ):
        assert one.target.options["vertex_project"] == "mine"
        assert (await headers_of(one))["authorization"].startswith("Bearer token-")


async def test_a_users_login(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login by gcloud names the project that pays, and that is told with each request."""
    monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{google.url}/token")
    info = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "s",
        "refresh_token": "r",
        "quota_project_id": "payer",
    }
    one = deployment(vertex_credentials=Secret(json.dumps(info)))
    assert one.target.options["vertex_project"] == "payer"
    headers = await headers_of(one)
    assert (headers["authorization"], headers["x-goog-user-project"]) == ("Bearer token-1", "payer")
    ((_, form),) = google.asked
    assert (form["grant_type"], form["refresh_token"]) == ("refresh_token", "r")


async def test_an_account_that_another_acts_for(google: Google) -> None:
    """The one's token is exchanged for the other's."""
    info = {
        "type": "impersonated_service_account",
        "service_account_impersonation_url": f"{google.url}/v1/serviceAccounts/boss@p:generateAccessToken",
        "source_credentials": account(google),
    }
    client = Web()
    signer = GoogleSigner(json.dumps(info), client)
    signer._credentials = _from_info(info)
    signer._credentials._iam_endpoint_override = info["service_account_impersonation_url"]
    await signer.renew()
    assert signer.sign(ADDRESS, b"")["authorization"] == "Bearer token-2"
    assert [path for path, _ in google.asked] == ["/token", "/v1/serviceAccounts/boss@p:generateAccessToken"]
    await signer.close()
    await client.close()


async def test_workload_identity(google: Google, tmp_path: Path) -> None:
    """A token of somewhere else is exchanged, and with it one of an account that it may act for."""
    (tmp_path / "token").write_text("theirs")
    info = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{google.url}/sts",
        "credential_source": {"file": str(tmp_path / "token")},
    }
    one = deployment(vertex_credentials=Secret(json.dumps(info)), vertex_project="p")
    assert (await headers_of(one))["authorization"] == "Bearer token-1"
    ((path, form),) = google.asked
    assert (path, form["subject_token"]) == ("/sts", "theirs")


async def test_renewal(google: Google) -> None:
    """A token that runs out is renewed in the background, and the version tells."""
    google.seconds = 100
    client = Web()
    signer = GoogleSigner(json.dumps(account(google)), client)
    await signer.renew()
    first = signer.version
    assert signer.sign(ADDRESS, b"")["authorization"] == "Bearer token-1"
    signer._token._renew_at = 0.0
    assert signer.is_ready  # the old one serves while the new one is fetched
    renewing = signer._token._renewal._running
    assert renewing is not None
    await renewing
    assert signer.sign(ADDRESS, b"")["authorization"] == "Bearer token-2"
    assert signer.version != first
    await signer.close()
    await client.close()


async def test_a_refusal(google: Google) -> None:
    """OAuth's word is told, and nothing of the key or of what the server said besides."""
    google.status, google.answer = 400, {"error": "invalid_grant", "error_description": "robot@ is gone"}
    message = await failure_of(json.dumps(account(google)))
    assert message == "No token from Google: RefreshError (invalid_grant)"


async def test_nobody_answers(google: Google) -> None:
    """Neither the address nor the key is told."""
    message = await failure_of(json.dumps(account(google, token_uri="http://127.0.0.1:1/token")))
    assert message.startswith("No token from Google: ")
    assert "Error" in message
    assert "BEGIN" not in message


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("/nowhere/key.json", "cannot be read: FileNotFoundError"),
        ("{broken s3cret", "cannot be read: JSONDecodeError"),
        ('{"type":"s3cret_kind"}', "unknown type"),
        ('{"type":"service_account","private_key":"s3cret"}', "No token from Google"),
        ('{"type":"external_account","credential_source":{"executable":{}}}', "No token from Google"),
        (
            '{"type":"external_account","subject_token_type":"urn:ietf:params:aws:token-type:aws4_request"}',
            "No token from Google",
        ),
    ],
)
async def test_credentials_that_cannot_be_used(given: str, words: str) -> None:
    """What is wrong is told without what is secret."""
    message = await failure_of(given)
    assert words in message
    assert '"s3cret"' not in message
    assert "broken" not in message


async def test_the_file_must_be_an_object(tmp_path: Path) -> None:
    """A list of credentials is none."""
    file = tmp_path / "list.json"
    file.write_text("[]")
    assert "JSON object" in await failure_of(str(file))


async def test_default_credentials(google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is named the library looks for them itself."""
    file = tmp_path / "key.json"
    file.write_text(json.dumps(account(google)))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert (await headers_of(deployment(vertex_project="p")))["authorization"] == "Bearer token-1"


def test_a_deployment_without_a_project() -> None:
    """It is not served, and the reason names the variables; a key needs no project."""
    params = ModelParams(model="vertex_ai/gemini-2.5-pro")
    config = Config(model_list=(ModelEntry(model_name="m", params=params, place=Place("", 0, 0)),))
    routes = compile_routes(config, {"HOME": "/nowhere"}, PriceTable.load())
    (unserved,) = routes.unserved
    assert unserved.why.startswith("vertex_project is not set (VERTEXAI_PROJECT or ")
    express = compile_routes(config, {"HOME": "/nowhere", "VERTEX_API_KEY": "k"}, PriceTable.load())
    assert express.unserved == []


def test_of_the_environment_alone() -> None:
    """Without a list of models, a project or credentials in the environment open all of Vertex AI's."""
    for environ in ({"GOOGLE_CLOUD_PROJECT": "p"}, {"GOOGLE_APPLICATION_CREDENTIALS": '{"project_id":"p"}'}):
        route = compile_routes(Config(), environ, PriceTable.load()).find("vertex_ai/claude-opus-4-5")
        assert route is not None
        (one,) = route.deployments
        assert (one.signer, one.target.provider.format) == ("google", "vertex")
        assert one.target.options["vertex_project"] == "p"
        assert one.target.base_url == "https://aiplatform.googleapis.com"


def test_a_provider_that_is_named_apart() -> None:
    """`custom_llm_provider` leads to the same rows as the prefix."""
    params = ModelParams(
        model="claude-opus-4-5", custom_llm_provider="vertex_ai", options={"vertex_project": "p"}
    )
    config = Config(model_list=(ModelEntry(model_name="m", params=params, place=Place("", 0, 0)),))
    route = compile_routes(config, {}, PriceTable.load()).find("m")
    assert route is not None
    assert route.deployments[0].target.provider.format == "vertex"
