"""Names and who serves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.config.model import (
    Alias,
    Config,
    Fallbacks,
    GeneralSettings,
    ModelEntry,
    ModelParams,
    Place,
    RouterSettings,
    Secret,
    TokenPrice,
)
from gateway.pricing import FREE, Price, PriceTable
from gateway.routes import Deployment, Route, Routes, compile_routes

PRICES = PriceTable.load()


def model(name: str, params: str, **more: Any) -> ModelEntry:
    known = {"api_key": Secret("sk-a-key-of-a-test"), **more}
    return ModelEntry(model_name=name, params=ModelParams(model=params, **known), place=Place("c.yaml", 1, 1))


def routes(
    *models: ModelEntry,
    environ: Mapping[str, str] | None = None,
    general: GeneralSettings | None = None,
    **router: Any,
) -> Routes:
    config = Config(model_list=models, router=RouterSettings(**router), general=general or GeneralSettings())
    return compile_routes(config, environ or {}, PRICES)


def found(compiled: Routes, name: str) -> Route:
    route = compiled.find(name)
    assert route is not None, name
    return route


def asked(compiled: Routes, name: str) -> list[str]:
    return [deployment.model_name for deployment in found(compiled, name).deployments]


def only(compiled: Routes, name: str) -> Deployment:
    (deployment,) = found(compiled, name).deployments
    return deployment


def test_one_name_many_deployments() -> None:
    """Entries of one name are one route, and each is a deployment of its own."""
    compiled = routes(model("m", "openai/a"), model("m", "anthropic/b"), model("m", "openai/a"))
    assert asked(compiled, "m") == ["openai/a", "anthropic/b", "openai/a"]
    assert len({deployment.id for deployment in found(compiled, "m").deployments}) == 3
    assert compiled.find("a") is None


def test_ids_are_stable() -> None:
    """The same configuration gives the same ids, and `model_info.id` sets one."""
    first, second = (only(routes(model("m", "openai/a")), "m").id for _ in range(2))
    assert first == second
    entry = ModelEntry(
        model_name="m",
        params=ModelParams(model="openai/a", api_key=Secret("k")),
        info={"id": "mine"},
        place=Place("", 0, 0),
    )
    assert only(routes(entry), "m").id == "mine"


@pytest.mark.parametrize(
    ("pattern", "params", "name", "asks"),
    [
        ("openai/*", "openai/*", "openai/gpt-4o", "openai/gpt-4o"),
        ("team/*", "openai/*", "team/gpt-4o", "openai/gpt-4o"),
        ("team/*", "openai/gpt-4o", "team/anything", "openai/gpt-4o"),
        ("*", "*", "anthropic/claude-x", "anthropic/claude-x"),
        ("*", "*", "gpt-4o", "openai/gpt-4o"),
        ("*", "openrouter/*", "meta/llama", "openrouter/meta/llama"),
        ("*-eu", "openai/*", "gpt-4o-eu", "openai/gpt-4o"),
        ("gpt-*", "azure/gpt-*", "gpt-4o", "azure/gpt-4o"),
        ("o/*/x", "openai/*", "o/a/b/x", "openai/a/b"),
    ],
)
def test_wildcards(pattern: str, params: str, name: str, asks: str) -> None:
    """What the star of the public name matched stands where the star of the model was."""
    compiled = routes(model(pattern, params, api_base="http://h/v1"))
    assert asked(compiled, name) == [asks]
    assert found(compiled, name).name == name


@pytest.mark.parametrize(
    ("pattern", "params", "name"),
    [
        ("openai/*", "openai/*", "openai/"),
        ("openai/*", "openai/*", "openai"),
        ("openai/*", "openai/*", "gpt-4o"),
        ("a*a", "openai/*", "a"),
        ("*", "*", "nobody-knows-this"),
        ("*", "*", "nosuchprovider/x"),
    ],
)
def test_what_wildcards_do_not_match(pattern: str, params: str, name: str) -> None:
    """A star needs something to stand for, and somebody who serves it."""
    assert routes(model(pattern, params)).find(name) is None


def test_the_most_specific_wildcard() -> None:
    """A whole name goes before a pattern, and a longer pattern before a shorter one, in whatever order they stand."""
    compiled = routes(
        model("*", "openai/*"),
        model("team/*", "groq/*"),
        model("team/a/*", "mistral/*"),
        model("team/a/x", "xai/x"),
    )
    assert asked(compiled, "team/a/x") == ["xai/x"]
    assert asked(compiled, "team/a/y") == ["mistral/y"]
    assert asked(compiled, "team/b") == ["groq/b"]
    assert asked(compiled, "other") == ["openai/other"]


def test_what_callers_ask_for_is_not_kept_without_bound() -> None:
    """Names that callers make up fill neither the memory nor the list of what cannot be served."""
    compiled = routes(model("*", "*", api_key=None), model("openai/*", "openai/*"))
    for number in range(5_000):
        compiled.find(f"nosuchprovider/{number}")
        compiled.find(f"openai/{number}")
    assert len(compiled._found) <= 2_000
    assert compiled.unserved == []


def test_aliases() -> None:
    """A string is another name, a list is a group of all their deployments, and a hidden one is not listed."""
    compiled = routes(
        model("a", "openai/a"),
        model("b", "openai/b1"),
        model("b", "openai/b2"),
        model_group_alias={
            "x": Alias(("a",)),
            "y": Alias(("a", "b", "nobody")),
            "z": Alias(("b",), hidden=True),
            "lost": Alias(("nobody",)),
        },
    )
    assert asked(compiled, "x") == ["openai/a"]
    assert asked(compiled, "y") == ["openai/a", "openai/b1", "openai/b2"]
    assert asked(compiled, "z") == ["openai/b1", "openai/b2"]
    assert compiled.find("lost") is None
    assert compiled.names() == ["a", "b", "x", "y"]


def test_an_alias_of_a_wildcard() -> None:
    """An alias may name what only a pattern serves."""
    compiled = routes(model("openai/*", "openai/*"), model_group_alias={"fast": Alias(("openai/gpt-4o",))})
    assert asked(compiled, "fast") == ["openai/gpt-4o"]


KEYS = {"OPENAI_API_KEY": "sk-o", "ANTHROPIC_API_KEY": "sk-a", "GROQ_API_KEY": "gsk"}


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("o3-mini", "openai/o3-mini"),
        ("openai/gpt-4o", "openai/gpt-4o"),
        ("claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("groq/llama-3", "groq/llama-3"),
    ],
)
def test_providers_of_the_environment(name: str, asks: str) -> None:
    """A key in the environment makes its provider's models answer, by prefix and by the names that everyone knows."""
    assert asked(routes(environ=KEYS), name) == [asks]


@pytest.mark.parametrize("name", ["mistral/x", "gemini-pro", "nobody", "openai/", "/gpt-4o", ""])
def test_providers_without_a_key(name: str) -> None:
    """Without a key there is no route."""
    assert routes(environ=KEYS).find(name) is None


def test_a_list_stays_closed() -> None:
    """Beside a `model_list` the environment opens nothing, unless `env_providers` says so."""
    assert routes(model("m", "openai/m"), environ=KEYS).find("gpt-4o") is None
    both = routes(model("m", "openai/m"), environ=KEYS, general=GeneralSettings(env_providers=True))
    assert asked(both, "gpt-4o") == ["openai/gpt-4o"]
    assert asked(both, "m") == ["openai/m"]
    closed = routes(environ=KEYS, general=GeneralSettings(env_providers=False))
    assert closed.find("gpt-4o") is None
    assert closed.names() == []


@pytest.mark.parametrize(
    ("environ", "name", "base"),
    [
        ({"OPENAI_API_BASE": "http://h:1/v1"}, "gpt-4o", "http://h:1"),
        ({"OPENAI_BASE_URL": "http://h:1/"}, "gpt-4o", "http://h:1"),
        ({"ANTHROPIC_API_BASE": "http://h:2"}, "claude-x", "http://h:2"),
        ({"ANTHROPIC_BASE_URL": "http://h:2/v1"}, "claude-x", "http://h:2"),
    ],
)
def test_base_urls_of_the_environment(environ: dict[str, str], name: str, base: str) -> None:
    """A provider's address may come from the environment, with and without a version at its end."""
    assert only(routes(environ={**KEYS, **environ}), name).origin == base
    listed = routes(model("m", "openai/m" if name == "gpt-4o" else "anthropic/m"), environ=environ)
    assert only(listed, "m").origin == base
    own = routes(model("m", "openai/m", api_base="http://own:3/v1"), environ=environ)
    assert only(own, "m").origin == "http://own:3"


@pytest.mark.parametrize(
    "address", ["localhost:8000/v1", "http://h:port", "http://[::1", "http://h/a b", "http://u:p@h"]
)
def test_an_address_of_the_environment_that_nobody_can_ask(address: str) -> None:
    """It is told where all that cannot be served is, and not to each client."""
    compiled = routes(model("m", "openai/m"), environ={"OPENAI_API_BASE": address})
    (row,) = compiled.unserved
    assert row.why.startswith("its address must ") or row.why.startswith("its address has a space")
    assert compiled.find("m") is None


def test_a_provider_of_the_environment_whose_address_nobody_can_ask() -> None:
    """Its models are not offered, and who asks for one is told which variable is wrong and not what it holds."""
    compiled = routes(environ={"OPENAI_API_KEY": "sk-1", "OPENAI_API_BASE": "http://me:secret@h/v1"})
    assert (compiled.find("openai/gpt-4o"), compiled.env_providers, compiled.names()) == (None, {}, [])
    told = "OPENAI_API_BASE must not have a user or a password in it; use api_key or extra_headers"
    assert compiled.what_is_missing("openai/gpt-4o") == f"{told}."
    assert ("openai/*", told) in [(row.model_name, row.why) for row in compiled.unserved]


def test_variables_without_what_stands_around_them() -> None:
    """Spaces and the last line break of the file that a key came from are no part of it; what is nothing else is not set."""
    environ = {"OPENAI_API_KEY": "sk-1\n", "OPENAI_API_BASE": " http://h:1/v1\r\n", "ANTHROPIC_API_KEY": "\n"}
    compiled = routes(
        model("m", "openai/m", api_key=None), model("c", "anthropic/c", api_key=None), environ=environ
    )
    found = only(compiled, "m")
    assert (found.api_key, found.origin) == (Secret("sk-1"), "http://h:1")
    assert [row.model_name for row in compiled.unserved] == ["c"]


def test_azure_of_the_environment() -> None:
    """Azure needs an address, and takes its version from the environment too."""
    assert routes(environ={"AZURE_API_KEY": "k"}).find("azure/gpt-4o") is None
    environ = {
        "AZURE_API_KEY": "k",
        "AZURE_API_BASE": "https://r.openai.azure.com/",
        "AZURE_API_VERSION": "2024-02-15-preview",
    }
    deployment = only(routes(environ=environ), "azure/gpt-4o")
    assert deployment.origin == "https://r.openai.azure.com"
    assert "2024-02-15-preview" in deployment.target.provider.paths["chat"]


def test_azure_with_entra_id() -> None:
    """An application's credentials in the environment are as good as a key, and half of them are none."""
    environ = {
        "AZURE_API_BASE": "https://r.openai.azure.com/",
        "AZURE_TENANT_ID": "t",
        "AZURE_CLIENT_ID": "c",
    }
    assert "azure" not in routes(environ=environ).env_providers
    deployment = only(routes(environ=environ | {"AZURE_CLIENT_SECRET": "s"}), "azure/gpt-4o")
    assert (deployment.signer, deployment.api_key) == ("entra", None)
    assert deployment.credentials["client_secret"] == Secret("s")
    assert deployment.scope
    library = only(routes(environ=environ | {"AZURE_CREDENTIAL": "default"}), "azure/gpt-4o")
    assert library.signer == "azure_identity"
    assert library.scope != deployment.scope


def test_amazons_credentials_in_the_environment() -> None:
    """A key of Bedrock's own, or anything that botocore finds credentials by; the region must be known, too."""
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        assert "bedrock" not in routes(environ={name: "x"}).env_providers
        deployment = only(
            routes(environ={name: "x", "AWS_REGION": "eu-west-3"}), "bedrock/amazon.nova-pro-v1:0"
        )
        assert deployment.target.base_url == "https://bedrock-runtime.eu-west-3.amazonaws.com"
        assert deployment.signer == ("" if name == "AWS_BEARER_TOKEN_BEDROCK" else "aws")
        assert deployment.credentials == {"aws_signing_name": "bedrock", "aws_region_name": "eu-west-3"}


def test_amazons_regions() -> None:
    """A deployment's own region counts more than the one in its name, and that more than the environment's."""
    name = "bedrock/us-east-2/amazon.nova-pro-v1:0"
    environ = {"AWS_REGION": "eu-west-3"}
    hosts = [
        only(routes(model("m", each, **more), environ=environ), "m").target.base_url.split(".")[1]
        for each, more in (
            (name, {"options": {"aws_region_name": "ap-south-1"}}),
            (name, {}),
            ("bedrock/amazon.nova-pro-v1:0", {}),
        )
    ]
    assert hosts == ["ap-south-1", "us-east-2", "eu-west-3"]
    unserved = routes(model("m", "bedrock/amazon.nova-pro-v1:0")).unserved[0]
    assert unserved.why.startswith("aws_region_name is not set (AWS_REGION_NAME or AWS_REGION")
    own = {"aws_bedrock_runtime_endpoint": "https://vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com"}
    found_own = only(routes(model("m", "bedrock/amazon.nova-pro-v1:0", options=own)), "m")
    assert found_own.origin == own["aws_bedrock_runtime_endpoint"]


def test_an_account_in_the_address() -> None:
    """A provider whose address has the operator's account in it is set up when both are known."""
    environ = {"CLOUDFLARE_API_KEY": "k"}
    assert "cloudflare" not in routes(environ=environ).env_providers
    deployment = only(routes(environ=environ | {"CLOUDFLARE_ACCOUNT_ID": "acc"}), "cloudflare/m")
    assert deployment.target.base_url == "https://api.cloudflare.com/client/v4/accounts/acc/ai/v1"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (ModelParams(model="openai/a"), "OPENAI_API_KEY"),
        (ModelParams(model="nobody/a"), "no provider is known"),
        (ModelParams(model="who"), "no provider is known"),
        (ModelParams(model="azure/a", api_key=Secret("k")), "base URL"),
        (ModelParams(model="x", custom_llm_provider="nobody"), "no provider is known"),
    ],
)
def test_what_cannot_be_served(entry: ModelParams, why: str) -> None:
    """An entry that cannot work is left out, with its reason and its place."""
    compiled = routes(ModelEntry(model_name="m", params=entry, place=Place("c.yaml", 7, 3)))
    (row,) = compiled.unserved
    assert compiled.find("m") is None
    assert why in row.why
    assert str(row.place) == "c.yaml:7:3"


def test_any_server_by_its_address() -> None:
    """With an `api_base` a model needs neither a known provider nor a key."""
    bare = ModelEntry(
        model_name="m", params=ModelParams(model="llama", api_base="http://h:1/v1"), place=Place("", 0, 0)
    )
    deployment = only(routes(bare), "m")
    assert (deployment.origin, deployment.api_key, deployment.scope) == ("http://h:1", None, "")


def test_pools_are_apart() -> None:
    """Two keys never share a connection; the scope does not tell which key it is."""
    compiled = routes(
        model("a", "openai/a", api_key=Secret("one")), model("b", "openai/b", api_key=Secret("two"))
    )
    scopes = {only(compiled, "a").scope, only(compiled, "b").scope}
    assert len(scopes) == 2
    assert not any("one" in scope or "two" in scope for scope in scopes)


def test_stand_ins() -> None:
    """A chain goes before a ring, a ring before the default; the caller's own before all; unknown names are passed over."""
    models = [model(name, f"openai/{name}") for name in "abcde"]
    fallbacks = Fallbacks(chains={"a": ("b", "nobody")}, rings=(("c", "d"),))
    compiled = routes(*models, fallbacks=fallbacks, default_fallbacks=("e",))

    def names(name: str, own: tuple[str, ...] = ()) -> list[str]:
        return [route.name for route in compiled.stand_ins(name, own)]

    assert names("a") == ["b"]
    assert names("c") == ["d"]
    assert names("d") == ["e"]
    assert names("b") == ["c", "d"]
    assert names("a", ("e", "a")) == ["e"]


def test_weights() -> None:
    """Deployments are chosen in the proportion of their weights; `rpm` and `tpm` are weights where none is given."""
    compiled = routes(
        model("m", "openai/a", weight=3.0),
        model("m", "openai/b", rpm=1),
        model("m", "openai/c", weight=0.0, tpm=100),
    )
    deployments = list(found(compiled, "m").deployments)
    assert [deployment.weight for deployment in deployments] == [3.0, 1.0, 0.0]


def test_names_that_are_listed() -> None:
    """Listed are the names of the list in its order, what wildcards are known to serve, and the environment's models."""
    compiled = routes(model("b", "openai/b"), model("team/*", "anthropic/*"), model("a", "openai/a"))
    names = compiled.names()
    assert names[:2] == ["b", "a"]
    assert names[2:]
    assert all(name.startswith("team/claude") for name in names[2:])
    opened = routes(environ={"OPENAI_API_KEY": "k"}).names()
    assert "gpt-4o" in opened
    assert all(routes(environ={"OPENAI_API_KEY": "k"}).find(name) for name in opened)


def test_secrets_are_told() -> None:
    """Every key that could be sent is known to the redactor; what is too short for one is none, unless its header's name says so."""
    headers = {"X-Api-Key": "two", "x-trace": "1", "x-team": "all", "x-other": "long-enough"}
    entry = model(
        "m",
        "openai/a",
        api_key=Secret("one"),
        extra_headers={name: Secret(value) for name, value in headers.items()},
        options={"a": Secret("three")},
    )
    told = {secret.reveal() for secret in routes(entry, environ=KEYS).secrets()}
    assert told == {"one", "two", "long-enough", "three", *KEYS.values()}


def test_a_price_that_an_entry_says_in_part() -> None:
    """What an entry leaves open is as in `cost_per_token`, else as in the table; where neither says anything, nobody knows."""
    priority = {"other_prices": {"input_cost_per_token_priority": "9e-6"}}
    general = GeneralSettings(cost_per_token={"m": TokenPrice("5e-6", "6e-6")})
    listed = PRICES.find("openai", "gpt-4o")
    assert listed is not None
    assert listed.price is not None
    for name, settings, input_price in (
        ("gpt-4o", None, listed.price.input),
        ("gpt-4o", general, 5 * 10**9),
        ("nobody-knows-it", None, None),
    ):
        found = only(routes(model("m", f"openai/{name}", **priority), general=settings), "m").price
        assert (found.input if found else None) == input_price
        assert (found.services["priority"].input if found else None) == (input_price and 9 * 10**9)


def test_what_a_mock_costs() -> None:
    """Nothing, unless its entry has a price."""
    words = {"mock_response": "Hello"}
    assert only(routes(model("m", "openai/gpt-4o", **words)), "m").price == FREE
    priced = only(
        routes(model("m", "openai/m", **words, input_cost_per_token="1e-6", output_cost_per_token="2e-6")),
        "m",
    )
    assert (priced.price, priced.price_source) == (Price(input=10**9, output=2 * 10**9), "deployment")


@pytest.mark.parametrize(
    "name", ["vertex_ai/gemini-2.5-pro", "bedrock/m", "azure/m", "watsonx/m", "anthropic/m"]
)
def test_a_mock_asks_nobody(name: str) -> None:
    """Whoever it stands for, it needs no credentials, answers as OpenAI does, and keeps the provider's name."""
    mock = only(
        routes(
            model("m", name, api_key=None, mock_response="Hello", options={"azure_ad_token": Secret("t")})
        ),
        "m",
    )
    assert (mock.provider, mock.signer, mock.target.provider.format) == (name.partition("/")[0], "", "openai")


def test_a_key_does_not_follow_a_callers_provider() -> None:
    """Behind a bare `*` the caller names the provider: a key of the entry's own would go to any of them."""
    compiled = routes(model("*", "*"))
    assert compiled.find("groq/llama") is None
    assert "whichever provider a caller names" in compiled.unserved[0].why
    nobodys = {"api_key": None}
    assert routes(model("*", "*", **nobodys, extra_headers={"x-key": Secret("k")})).find("groq/llama") is None
    environ = {"GROQ_API_KEY": "gsk-of-the-environment"}
    assert only(routes(model("*", "*", **nobodys), environ=environ), "groq/llama").provider == "groq"
    assert only(routes(model("*", "openai/*")), "gpt-4o").provider == "openai"
    assert only(routes(model("*", "*", api_base="http://own:1/v1")), "groq/llama").origin == "http://own:1"


def test_deployments_of_other_environments() -> None:
    """What is for another environment than LITELLM_ENVIRONMENT is not served, and says so."""
    entries = tuple(
        ModelEntry(
            model_name="m",
            params=ModelParams(model="openai/a", api_key=Secret("sk-a-key-of-a-test")),
            info={"supported_environments": environments} if environments else {},
            place=Place("c.yaml", 1, 1),
        )
        for environments in (["production"], ["staging", "production"], [])
    )
    for ours, served, why in (
        ("production", 3, ""),
        ("staging", 2, "it is for production, and LITELLM_ENVIRONMENT is 'staging'"),
        ("", 1, "it is for production, and LITELLM_ENVIRONMENT is not set"),
    ):
        environ = {"LITELLM_ENVIRONMENT": ours} if ours else {}
        routes = compile_routes(Config(model_list=entries), environ, PriceTable.load())
        route = routes.find("m")
        assert route is not None
        assert len(route.deployments) == served
        assert (routes.unserved[0].why if routes.unserved else "") == why


def test_a_group_in_order() -> None:
    """The deployments of an alias in order come in the order of its targets, and within one as they stood."""
    entries = tuple(
        ModelEntry(
            model_name=name,
            params=ModelParams(model="openai/a", api_key=Secret("sk-a-key-of-a-test"), order=order),
            place=Place("c.yaml", 1, 1),
        )
        for name, order in (("b", 5), ("b", 7), ("b", 5), ("a", None))
    )
    router = RouterSettings(model_group_alias={"g": Alias(("a", "b"), in_order=True), "h": Alias(("a", "b"))})
    routes = compile_routes(Config(model_list=entries, router=router), {}, PriceTable.load())
    group, heap = routes.find("g"), routes.find("h")
    assert group is not None
    assert heap is not None
    assert [one.order for one in group.deployments] == [0, 1, 2, 1]
    assert [one.id for one in group.deployments] == [one.id for one in heap.deployments]
    assert [one.order for one in heap.deployments] == [0, 5, 7, 5]
