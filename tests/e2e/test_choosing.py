"""Who is left out, and what a client is told, through real sockets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.harness import FakeProvider, chat_answer, config_of, entry, fake_provider, gateway, hang, whole

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def models(provider: FakeProvider) -> str:
    """The last letters of the models that were asked, in turn."""
    return "".join(asked.json["model"][-1] for asked in provider.requests)


def deployment(provider: FakeProvider, letter: str, name: str = "m", **params: Any) -> dict[str, Any]:
    """An entry that costs a dollar for each token that goes in: ten for each answer of the fake provider."""
    prices = {"input_cost_per_token": 1, "output_cost_per_token": 0}
    return entry(name, f"openai/model-{letter}", f"{provider.url}/v1", **{**prices, **params})


async def test_tags_find_their_deployment(tmp_path: Path) -> None:
    """Tags of the body, of the metadata and of the header choose; with tags that are not for anybody: 401, LiteLLM's words."""
    async with fake_provider() as provider:
        provider.will(whole(chat_answer()))
        config = config_of(
            deployment(provider, "a", tags=["free"]),
            deployment(provider, "b", tags=["paid", "eu"]),
            enable_tag_filtering=True,
        )
        async with gateway(config, tmp_path) as gw:
            await gw.post("/v1/chat/completions", {**QUESTION, "tags": ["paid"]})
            await gw.post("/v1/chat/completions", {**QUESTION, "metadata": {"tags": ["free"]}})
            await gw.post("/v1/chat/completions", QUESTION, headers={"x-litellm-tags": "eu"})
            assert models(provider) == "bab"
            refused = await gw.post("/v1/chat/completions", {**QUESTION, "tags": ["free", "&eu"]})
            error = (await refused.json())["error"]
            assert refused.status == 401
            assert error["message"].startswith("Not allowed to access model due to tags configuration")
            rows = await gw.rows(4)
            assert rows[-1].reason == "tags_denied"


async def test_the_last_one_for_a_tag_is_not_left_out(tmp_path: Path) -> None:
    """One failure leaves out a deployment where another may be asked, and none that is the only one for such requests."""
    async with fake_provider() as provider:
        provider.will(whole({"error": {"message": "no"}}, 500))
        config = config_of(
            deployment(provider, "a", tags=["free"]),
            deployment(provider, "b", tags=["paid"]),
            deployment(provider, "c", tags=["paid"]),
            enable_tag_filtering=True,
            num_retries=0,
        )
        async with gateway(config, tmp_path) as gw:
            for tag in ("free", "free", "paid", "paid"):
                await gw.post("/v1/chat/completions", {**QUESTION, "tags": [tag]})
            assert models(provider) in ("aabc", "aacb")


async def test_a_question_that_is_too_long_goes_to_the_fallback(tmp_path: Path) -> None:
    """The small model is not asked at all, the one of `context_window_fallbacks` is; without one: 400 with the usual code."""
    async with fake_provider() as provider:
        provider.will(whole(chat_answer()))
        small = deployment(provider, "a")
        alone = deployment(provider, "c", name="alone")
        small["model_info"] = alone["model_info"] = {"max_input_tokens": 1_000}
        config = config_of(
            small,
            alone,
            deployment(provider, "b", name="large"),
            enable_pre_call_checks=True,
            context_window_fallbacks=[{"m": ["large"]}],
        )
        long = {**QUESTION, "messages": [{"role": "user", "content": "word " * 2_000}]}
        async with gateway(config, tmp_path) as gw:
            assert (await gw.post("/v1/chat/completions", long)).status == 200
            assert (await gw.post("/v1/chat/completions", QUESTION)).status == 200
            assert models(provider) == "ba"
            refused = await gw.post("/v1/chat/completions", {**long, "model": "alone"})
            assert refused.status == 400
            assert (await refused.json())["error"]["code"] == "context_length_exceeded"


async def test_at_its_limit_another_is_asked(tmp_path: Path) -> None:
    """Of many at once a deployment with `rpm: 2` gets two, the other the next; when all are at their limit: 429 that says when."""
    async with fake_provider() as provider:
        provider.will(whole(chat_answer()))
        config = config_of(
            deployment(provider, "a", rpm=2, order=1), deployment(provider, "b", rpm=1, order=2)
        )
        async with gateway(config, tmp_path) as gw:
            at_once = (gw.post("/v1/chat/completions", QUESTION) for _ in range(10))
            answers = sorted(await asyncio.gather(*at_once), key=lambda answer: answer.status)
            assert [answer.status for answer in answers] == [200] * 3 + [429] * 7
            assert sorted(models(provider)) == ["a", "a", "b"]
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 61
            message = (await answers[-1].json())["error"]["message"]
            assert "it was asked 2 of 2 requests in the last minute" in message


async def test_parallel_requests_are_exact(tmp_path: Path) -> None:
    """Of many at once, exactly as many as it may have reach a deployment."""
    async with fake_provider() as provider:
        provider.will(hang)
        async with gateway(
            config_of(deployment(provider, "a"), default_max_parallel_requests=3), tmp_path
        ) as gw:
            async with gw.connect() as (_, one), gw.connect() as (_, two), gw.connect() as (_, three):
                body = json.dumps(QUESTION).encode()
                for count, writer in enumerate((one, two, three), 1):
                    writer.write(
                        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
                        % (len(body), body)
                    )
                    await provider.asked(count)
                refused = await gw.post("/v1/chat/completions", QUESTION)
                assert refused.status == 429
                assert "it has 3 of 3 parallel requests" in (await refused.json())["error"]["message"]
            await gw.quiet()
            provider.will(whole(chat_answer()))
            assert (await gw.post("/v1/chat/completions", QUESTION)).status == 200


async def test_a_spent_budget_leaves_a_deployment_out(tmp_path: Path) -> None:
    """Deployments are asked until their dollars are spent, then others; a restart remembers; nobody left: LiteLLM's sentence."""
    async with fake_provider() as provider:
        provider.will(whole(chat_answer()))
        config = config_of(
            deployment(provider, "a", max_budget=15, budget_duration="30d", order=1),
            deployment(provider, "b", max_budget=5, budget_duration="30d", order=2),
        )
        async with gateway(config, tmp_path) as gw:
            for _ in range(2):
                assert (await gw.post("/v1/chat/completions", QUESTION)).status == 200
            assert models(provider) == "aa"
            await gw.rows(2)
        async with gateway(config, tmp_path) as gw:
            while not all(tally.is_known for tally in gw.rt.health.spending.tallies()):
                await gw.get("/health")
            assert (await gw.post("/v1/chat/completions", QUESTION)).status == 200
            assert models(provider) == "aab"
            refused = await gw.post("/v1/chat/completions", QUESTION)
            assert refused.status == 429
            message = (await refused.json())["error"]["message"]
            assert message.startswith(
                "No deployments available - crossed budget: Exceeded budget for deployment"
            )
            assert refused.headers["x-should-retry"] == "false"


async def test_a_spent_budget_of_a_provider(tmp_path: Path) -> None:
    """What one deployment of a provider spends, another of it cannot; a fallback at another provider answers."""
    async with fake_provider() as provider:
        provider.will(whole(chat_answer()))
        config = config_of(
            deployment(provider, "a"),
            deployment(provider, "b", name="second"),
            entry("third", "groq/model-c", provider.url),
            provider_budget_config={"openai": {"budget_limit": 9, "time_period": "1d"}},
            fallbacks=[{"second": ["third"]}],
        )
        async with gateway(config, tmp_path) as gw:
            assert (await gw.post("/v1/chat/completions", QUESTION)).status == 200
            refused = await gw.post("/v1/chat/completions", QUESTION)
            assert refused.status == 429
            assert (
                "Exceeded budget for provider openai: 10.0 >= 9.0"
                in (await refused.json())["error"]["message"]
            )
            answered = await gw.post("/v1/chat/completions", {**QUESTION, "model": "second"})
            assert answered.status == 200
            assert models(provider) == "ac"
            shown = await (await gw.get("/metrics")).text()
            assert 'litellm_provider_remaining_budget_metric{api_provider="openai"} 0.0' in shown
            health = await (await gw.get("/health")).json()
            assert [one.get("used_up") for one in health["healthy_endpoints"]][:2] != [[], []]


async def test_a_conversation_stays(tmp_path: Path) -> None:
    """All turns of a conversation are answered by the deployment that answered the first; it moves when that one fails."""
    async with fake_provider() as provider:
        provider.will(whole(chat_answer()))
        config = config_of(
            *(deployment(provider, letter, cache_read_input_token_cost=0.1) for letter in "abcd"),
            prompt_cache_affinity=True,
        )
        messages = [{"role": "user", "content": "Tell me of rivers. " * 300}]
        async with gateway(config, tmp_path) as gw:
            for turn in range(10):
                await gw.post("/v1/chat/completions", {**QUESTION, "messages": messages})
                messages += [
                    {"role": "assistant", "content": f"This is river {turn}."},
                    {"role": "user", "content": "Go on."},
                ]
            (home,) = set(models(provider))
            gw.rt.health.of(_id_of(gw.rt.routes.find("m"), home)).cooled_until = gw.rt.now() + 60.0
            provider.requests.clear()
            for _ in range(5):
                await gw.post("/v1/chat/completions", {**QUESTION, "messages": messages})
            (elsewhere,) = set(models(provider))
            assert elsewhere != home


def _id_of(route: Any, letter: str) -> str:
    return next(str(one.id) for one in route.deployments if one.target.model.endswith(letter))


async def test_an_alias_in_order_and_its_limits(tmp_path: Path) -> None:
    """A group in order asks its first model until that one is at its limit; wildcards and weights of zero as well."""
    async with fake_provider() as provider:
        provider.will(whole(chat_answer()))
        config = config_of(
            deployment(provider, "a", name="one", rpm=1),
            deployment(provider, "b", name="two", rpm=2),
            deployment(provider, "z", name="two", weight=0),
            entry("wild/*", "openai/*", f"{provider.url}/v1", rpm=1),
            model_group_alias={"group": {"models": ["one", "two", "wild/model-c"], "order": True}},
        )
        async with gateway(config, tmp_path) as gw:
            for _ in range(4):
                await gw.post("/v1/chat/completions", {**QUESTION, "model": "group"})
            assert models(provider) == "abbz"
            answers = [
                await gw.post("/v1/chat/completions", {**QUESTION, "model": "wild/model-c"}) for _ in range(2)
            ]
            assert [answer.status for answer in answers] == [200, 429]
