"""Signatures for Amazon, checked by a server that computes them anew; roles that are assumed at a fake STS."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, quote

import pytest

from adapters import bedrock
from adapters.errors import UpstreamAuth
from adapters.providers import PROVIDERS
from adapters.types import Address, Target
from gateway.background.supervisor import spawn
from gateway.config.model import Secret
from gateway.credentials import Signers, aws, aws_sources
from gateway.routes import Deployment
from tests.adapters.frames import event
from tests.harness import Asked, FakeProvider, Play, fake_provider, gateway, hang, whole

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEYS = {
    "aws_access_key_id": "AKIDEXAMPLE",
    "aws_secret_access_key": SECRET,
    "aws_region_name": "eu-central-1",
    "aws_signing_name": "bedrock",
}
ARN = "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.anthropic.claude-x-v1:0"
BODY = '{"messages":[{"role":"user","content":[{"text":"Grüße"}]}]}'.encode()


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without AWS in it, and no asking for the machine's role."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def address(model: str = ARN, base: str = "https://bedrock-runtime.eu-central-1.amazonaws.com") -> Address:
    target = Target(provider=PROVIDERS["bedrock"], model=model, base_url=base)
    return bedrock.address(target, "chat", {}, stream=True)


# -- Signature Version 4, computed after Amazon's description ----------------------------------------------------------


def computed(asked: Asked, secret: str, service: str = "bedrock") -> str:
    """The signature that a request should have: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html."""
    given = asked.headers["authorization"]
    scope = given.partition("Credential=")[2].partition(",")[0].split("/", 1)[1]
    names = given.partition("SignedHeaders=")[2].partition(",")[0]
    path, _, query = asked.path.partition("?")
    canonical = "\n".join(
        (
            asked.method,
            quote(path, safe="/-_.~"),
            query,
            *(f"{name}:{' '.join(asked.headers[name].split())}" for name in names.split(";")),
            "",
            names,
            hashlib.sha256(asked.body).hexdigest(),
        )
    )
    day, region, name, _ = scope.split("/")
    assert name == service
    to_sign = "\n".join(
        (
            "AWS4-HMAC-SHA256",
            asked.headers["x-amz-date"],
            scope,
            hashlib.sha256(canonical.encode()).hexdigest(),
        )
    )
    key = f"AWS4{secret}".encode()
    for part in (day, region, name, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def is_signed(asked: Asked, secret: str = SECRET, service: str = "bedrock") -> bool:
    given = asked.headers["authorization"].partition("Signature=")[2]
    return given == computed(asked, secret, service)


async def ready(settings: dict[str, str]) -> aws.AwsSigner:
    signer = aws.AwsSigner(settings)
    at_first = signer.is_ready
    assert not at_first
    await signer.renew()
    assert signer.is_ready
    return signer


async def test_signs_what_is_sent() -> None:
    """The signature covers the path as it is written, the host, the time, the content type and the body."""
    signer = await ready(KEYS)
    headers = signer.sign(address(), BODY)
    asked = Asked(
        "POST",
        address().url.partition(".com")[2],
        {**headers, "host": "bedrock-runtime.eu-central-1.amazonaws.com"},
        BODY,
        None,  # type: ignore[arg-type]  # no connection
    )
    assert "%3A123456789012%3Ainference-profile%2Feu.anthropic" in asked.path
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "SignedHeaders=content-type;host;x-amz-date" in headers["authorization"]
    assert headers["accept"] == "*/*"
    assert is_signed(asked)
    assert not is_signed(asked, secret="another")
    assert signer.version is None
    await signer.close()


async def test_a_session_has_its_token() -> None:
    """Temporary keys come with a token, which is signed too."""
    signer = await ready({**KEYS, "aws_session_token": "FwoGZXIvYXdzEBYa"})
    headers = signer.sign(address(), BODY)
    assert headers["x-amz-security-token"] == "FwoGZXIvYXdzEBYa"
    assert "x-amz-security-token" in headers["authorization"]
    await signer.close()


async def test_the_region_may_be_in_the_address() -> None:
    """Where nobody names it; and where nobody can know it, that is said."""
    settings = {name: value for name, value in KEYS.items() if name != "aws_region_name"}
    signer = await ready(settings)
    assert "/eu-central-1/bedrock/" in signer.sign(address(), BODY)["authorization"]
    with pytest.raises(UpstreamAuth, match="set aws_region_name"):
        signer.sign(address(base="https://proxy.example.com"), BODY)
    await signer.close()


async def test_without_credentials_nothing_is_signed() -> None:
    """What is missing is said, and nobody searches again at once."""
    signer = aws.AwsSigner({"aws_region_name": "eu-central-1"})
    with pytest.raises(UpstreamAuth, match="No AWS credentials were found"):
        await signer.renew()
    assert not signer.is_ready
    with pytest.raises(UpstreamAuth, match="No AWS credentials were found"):
        await signer.renew()
    with pytest.raises(UpstreamAuth, match="no AWS credentials yet"):
        signer.sign(address(), BODY)
    await signer.close()


async def test_the_environment_and_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What botocore finds by itself, and a profile that is named, which wins over the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    (tmp_path / "credentials").write_text(
        "[work]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = other\n"
    )
    (tmp_path / "config").write_text("[profile work]\nregion = us-east-2\n")
    signer = await ready({})
    assert "AKIDENVIRONMENT" in signer.sign(address(), BODY)["authorization"]
    await signer.close()
    signer = await ready({**KEYS, "aws_profile_name": "work", "aws_region_name": ""})
    written = signer.sign(address(), BODY)["authorization"]
    assert "AKIDPROFILE" in written
    assert "/us-east-2/bedrock/" in written
    await signer.close()
    signer = aws.AwsSigner({"aws_profile_name": "nobody"})
    with pytest.raises(UpstreamAuth, match="ProfileNotFound"):
        await signer.renew()
    await signer.close()


# -- roles -------------------------------------------------------------------------------------------------------------


def sts(given: Callable[[int], timedelta] = lambda _: timedelta(hours=1)) -> Play:
    """A security token service, whose first keys are `ASIA1`, its second `ASIA2` …"""
    count = 0

    async def play(provider: FakeProvider, asked: Asked) -> None:
        nonlocal count
        count += 1
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        action = form["Action"]
        ends = (datetime.now(UTC) + given(count)).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = (
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>'
            f"<Credentials><AccessKeyId>ASIA{count}</AccessKeyId><SecretAccessKey>assumed</SecretAccessKey>"
            f"<SessionToken>token-{count}</SessionToken><Expiration>{ends}</Expiration></Credentials>"
            f"</{action}Result></{action}Response>"
        )
        await whole(answer.encode(), headers={"content-type": "text/xml"})(provider, asked)

    return play


async def test_a_role_is_assumed() -> None:
    """With the deployment's own keys, under the name and for the account that it says."""
    async with fake_provider() as provider:
        provider.will(sts())
        signer = await ready(
            {
                **KEYS,
                "aws_role_name": "arn:aws:iam::123456789012:role/models",
                "aws_session_name": "penstock",
                "aws_external_id": "theirs",
                "aws_sts_endpoint": provider.url,
            }
        )
        headers = signer.sign(address(), BODY)
        assert "Credential=ASIA1/" in headers["authorization"]
        assert headers["x-amz-security-token"] == "token-1"
        asked = await provider.asked()
        form = parse_qs(asked.body.decode())
        assert form["Action"] == ["AssumeRole"]
        assert form["RoleArn"] == ["arn:aws:iam::123456789012:role/models"]
        assert (form["RoleSessionName"], form["ExternalId"]) == (["penstock"], ["theirs"])
        assert is_signed(asked, service="sts")
        await signer.close()


@pytest.mark.parametrize(
    ("in_file", "token"),
    [(False, "eyJhbGciOi.J9.x"), (True, "eyJhbGciOi.J9.x"), (False, "eyJhbGciOi.J9." + "x" * 600)],
)
async def test_a_web_identity_is_shown(in_file: bool, token: str, tmp_path: Path) -> None:
    """A token, or the file that it is in, for a role; nothing else is needed, and nothing is signed there. A token may be longer
    than a file's name.
    """
    if in_file:
        (tmp_path / "token").write_text(token + "\n")
    async with fake_provider() as provider:
        provider.will(sts())
        signer = await ready(
            {
                "aws_region_name": "eu-central-1",
                "aws_role_name": "arn:aws:iam::123456789012:role/pod",
                "aws_web_identity_token": str(tmp_path / "token") if in_file else token,
                "aws_sts_endpoint": provider.url,
            }
        )
        assert "Credential=ASIA1/" in signer.sign(address(), BODY)["authorization"]
        asked = await provider.asked()
        form = parse_qs(asked.body.decode())
        assert form["Action"] == ["AssumeRoleWithWebIdentity"]
        assert form["WebIdentityToken"] == [token]
        assert "authorization" not in asked.headers
        await signer.close()


async def test_a_web_identity_needs_a_role() -> None:
    """That is said."""
    signer = aws.AwsSigner({"aws_web_identity_token": "eyJ"})
    with pytest.raises(UpstreamAuth, match="needs aws_role_name"):
        await signer.renew()
    await signer.close()


async def test_credentials_are_renewed_ahead_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the old ones are still good, nobody waits: the new ones come in the background."""
    monkeypatch.setattr(aws, "_LOOK_AGAIN", 0.0)
    async with fake_provider() as provider:
        provider.will(sts(lambda count: timedelta(minutes=5 if count == 1 else 60)))
        role = {"aws_role_name": "arn:aws:iam::1:role/x", "aws_sts_endpoint": provider.url}
        signer = await ready({**KEYS, **role})
        while "ASIA2" not in signer.sign(address(), BODY)["authorization"]:
            assert signer.is_ready
            await asyncio.sleep(0.001)
        assert len(provider.requests) == 2
        await signer.close()


async def test_credentials_that_have_run_out_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are no new ones, a request waits and then fails, with the name of what went wrong."""
    monkeypatch.setattr(aws, "_LOOK_AGAIN", 0.0)
    refusal = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>secret words</Message></Error></ErrorResponse>"
    async with fake_provider() as provider:
        provider.will(sts(lambda _: timedelta(seconds=2)), whole(refusal, 403, {"content-type": "text/xml"}))
        role = {"aws_role_name": "arn:aws:iam::1:role/x", "aws_sts_endpoint": provider.url}
        signer = aws.AwsSigner({**KEYS, **role})
        await signer.renew()
        while signer.is_ready:
            await asyncio.sleep(0.01)
        with pytest.raises(UpstreamAuth, match=r"ClientError \(AccessDenied\)") as caught:
            await signer.renew()
        assert "secret words" not in caught.value.message
        await signer.close()


async def test_who_waits_for_a_server_holds_nothing_up() -> None:
    """It keeps neither a thread that others need nor the process from ending."""

    async def late(provider: FakeProvider, asked: Asked) -> None:
        await provider.gate.wait()
        await sts()(provider, asked)

    async with fake_provider() as provider:
        provider.will(late)
        role = {"aws_role_name": "arn:aws:iam::1:role/x", "aws_sts_endpoint": provider.url}
        signer = aws.AwsSigner({**KEYS, **role})
        before = set(threading.enumerate())
        waits = spawn(signer.renew(), name="renewal")
        await provider.asked()
        others = set(threading.enumerate()) - before
        assert others
        assert all(thread.daemon for thread in others)
        provider.gate.set()
        await waits
        assert signer.is_ready
        await signer.close()


async def test_a_silent_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon, so that another deployment may be asked."""
    monkeypatch.setattr(aws_sources, "_SECONDS", 0.01)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    async with fake_provider() as provider:
        provider.will(hang)
        role = {"aws_role_name": "arn:aws:iam::1:role/x", "aws_sts_endpoint": provider.url}
        signer = aws.AwsSigner({**KEYS, **role})
        with pytest.raises(UpstreamAuth, match="TimeoutError"):
            await signer.renew()
        await signer.close()


async def test_many_requests_share_one_search() -> None:
    """The first request fetches, all others wait for it; deployments with the same settings share the signer."""
    async with fake_provider() as provider:
        provider.will(sts())
        role = {"aws_role_name": "arn:aws:iam::1:role/x", "aws_sts_endpoint": provider.url}
        signer = aws.AwsSigner({**KEYS, **role})
        await asyncio.gather(*(signer.renew() for _ in range(10)))
        assert len(provider.requests) == 1
        await signer.close()


async def test_a_signer_is_made_for_a_deployment() -> None:
    """Secrets are taken out of their wrapping, what is not Amazon's is left out."""
    target = Target(provider=PROVIDERS["bedrock"], model="m", base_url="https://x.example.com")
    credentials: dict[str, str | Secret] = {**KEYS, "aws_secret_access_key": Secret(SECRET), "other": "x"}
    deployment = Deployment(id="a", route="a", target=target, signer="aws", credentials=credentials)
    signers = Signers()
    signer = signers.of(deployment)
    assert signer is not None
    await signer.renew()
    assert "AKIDEXAMPLE" in signer.sign(address(), BODY)["authorization"]
    assert SECRET not in repr(deployment)
    await signers.close()


# -- through the gateway -----------------------------------------------------------------------------------------------

STREAM = (
    event("messageStart", {"role": "assistant"})
    + event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hello!"}})
    + event("messageStop", {"stopReason": "end_turn"})
    + event("metadata", {"usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}})
)


def strict(body: bytes, kind: str) -> Play:
    """Amazon, as far as signatures go."""

    async def play(provider: FakeProvider, asked: Asked) -> None:
        if is_signed(asked):
            await whole(body, headers={"content-type": kind})(provider, asked)
        else:
            refusal = {"message": "The request signature we calculated does not match"}
            name = {"x-amzn-errortype": "InvalidSignatureException:http://internal"}
            await whole(refusal, 403, name)(provider, asked)

    return play


@pytest.fixture
def config() -> Callable[[str, str], str]:
    """A configuration with one model of Bedrock's at this address, with this secret."""

    def of(url: str, secret: str) -> str:
        params = {"model": f"bedrock/{ARN}", "api_base": url, **KEYS, "aws_secret_access_key": secret}
        del params["aws_signing_name"]
        return json.dumps(
            {
                "model_list": [{"model_name": "claude", "litellm_params": params}],
                "router_settings": {"num_retries": 0},
            }
        )

    return of


async def test_a_signature_holds_on_the_wire(config: Callable[[str, str], str], tmp_path: Path) -> None:
    """What is signed is what arrives: the model's ARN in the path, and the body, streamed and whole."""
    question = {"model": "claude", "messages": [{"role": "user", "content": "hi"}]}
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "Hello!"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
    }
    async with fake_provider() as provider, gateway(config(provider.url, SECRET), tmp_path) as ours:
        provider.will(strict(json.dumps(answer).encode(), "application/json"))
        response = await ours.post("/v1/chat/completions", question)
        assert response.status == 200, await response.text()
        assert (await response.json())["choices"][0]["message"]["content"] == "Hello!"
        provider.will(strict(STREAM, "application/vnd.amazon.eventstream"))
        response = await ours.post("/v1/chat/completions", question | {"stream": True})
        text = await response.text()
        assert '"content":"Hello!"' in text.replace(": ", ":")
        assert text.endswith("data: [DONE]\n\n")
        assert provider.requests[1].path == f"/model/{quote(ARN, safe='')}/converse-stream"


async def test_a_wrong_secret_is_the_operators_business(
    config: Callable[[str, str], str], tmp_path: Path
) -> None:
    """The caller learns that the gateway's credentials were refused, and nothing of them."""
    question = {"model": "claude", "messages": [{"role": "user", "content": "hi"}]}
    async with (
        fake_provider() as provider,
        gateway(config(provider.url, "another-secret-of-aws"), tmp_path) as ours,
    ):
        provider.will(strict(b"{}", "application/json"))
        response = await ours.post("/v1/chat/completions", question)
        assert response.status == 502
        assert "refused the gateway's credentials" in await response.text()


async def test_a_key_is_enough(tmp_path: Path) -> None:
    """With a key of Bedrock's own nothing is signed."""
    params = {
        "model": "bedrock/amazon.nova-lite-v1:0",
        "aws_region_name": "us-east-1",
        "api_key": "bedrock-api-key-x",
    }
    async with fake_provider() as provider:
        params["aws_bedrock_runtime_endpoint"] = provider.url
        written = json.dumps({"model_list": [{"model_name": "nova", "litellm_params": params}]})
        async with gateway(written, tmp_path) as ours:
            provider.will(
                whole({"output": {"message": {"content": [{"text": "Hi"}]}}, "stopReason": "end_turn"})
            )
            question = {"model": "nova", "messages": [{"role": "user", "content": "hi"}]}
            response = await ours.post("/v1/chat/completions", question)
            assert response.status == 200, await response.text()
            asked = await provider.asked()
            assert asked.headers["authorization"] == "Bearer bedrock-api-key-x"
            assert "x-amz-date" not in asked.headers
