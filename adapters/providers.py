"""The table of providers: a provider is a row, a format is a file.

Most companies that serve language models speak one of two formats, so what differs between them is data: an address,
the name of a key, which request fields they refuse, what they call the others. This module is that data. To add a
provider that speaks a known format, add a row (`adapters/README.md` says how); code is needed only for a new format.

Names are the prefixes that LiteLLM's users write (`together_ai/…`), other spellings are in `ALIASES`. The rows were
written after the vendors' documentation (`doc`) and LiteLLM 1.109.1's table of names, addresses and variables.

Rules of the rows:

* `paths` is what a provider offers, and an operation that is missing there is refused before anything is sent.
* `rejects` names request fields that the provider answers with an error. Fields that it merely ignores are not there.
* A row without `base_url` is a server that the operator has to name (`api_base`, or a variable of `base_env`).
* What cannot be said by address, `rejects` and `rename` is a quirk. Each is explained in `QUIRKS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec.structs import replace

from adapters.compatible import COMPANIES
from adapters.types import Provider

QUIRKS: dict[str, str] = {
    "reasoning_outside_completion": "`completion_tokens` leaves the reasoning out: it has to be added",
    "reasoning_content": "wants `reasoning_content` back in the assistant's turns of a tool loop",
    "cache_control": "takes prompt-cache marks (`cache_control`) on the parts of a message",
    "top_k": "takes `top_k` at the top level",
    "reasoning_details": "takes reasoning back as blocks with their signatures, in `reasoning_details`",
    "mistral": "Mistral's dialect: ids of nine characters, thoughts in the content, fill-in-the-middle (`mistral.py`)",
    "bills": "says in `usage` what the request costs",
    "optional_key": "works without a key",
}
"""Deviations by name: what the format's file has to know about a provider."""

_CHAT = {"chat": "/chat/completions"}
_EMBEDDINGS = {"embeddings": "/embeddings"}
_CHAT_EMBEDDINGS = _CHAT | _EMBEDDINGS
_TEXT = _CHAT | {"completions": "/completions"}
_ALL = _TEXT | _EMBEDDINGS
_IMAGES = {"images": "/images/generations"}
_SPEECH = {"speech": "/audio/speech"}
_TRANSCRIPTIONS = {"transcriptions": "/audio/transcriptions"}
_AUDIO_IN = _TRANSCRIPTIONS | {"translations": "/audio/translations"}
_RERANK = {"rerank": "/rerank"}
_EVERYTHING = _ALL | _IMAGES | _SPEECH | _AUDIO_IN

_MAX_TOKENS = {"max_completion_tokens": "max_tokens"}

AZURE_API_VERSION = "2025-02-01-preview"
"""The version that is asked of a classic Azure address if nobody names one; LiteLLM's default too."""
_FOUNDRY_VERSION = "2024-05-01-preview"


def _under(prefix: str, paths: Mapping[str, str], query: str = "") -> dict[str, str]:
    return {operation: prefix + path + query for operation, path in paths.items()}


def _row(
    name: str,
    title: str,
    base_url: str,
    env: str,
    doc: str,
    *,
    base_env: str = "",
    paths: dict[str, str] = _ALL,
    rename: dict[str, str] = _MAX_TOKENS,
    rejects: Iterable[str] = (),
    usage: Literal["ask", "always", "none"] = "ask",
    quirks: str = "",
    prefixes: str = "",
    auth: Literal["bearer", "x-api-key", "api-key", "none"] = "bearer",
    options: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Provider:
    """A provider that speaks OpenAI's format; lists are words with spaces between them. `options` are those that the
    environment may give.

    `max_tokens` is what the whole field understands, so the newer name is the exception (`rename={}`).
    """
    return Provider(
        name=name,
        title=title,
        base_url=base_url,
        env=tuple(env.split()),
        base_env=tuple(base_env.split()) or (f"{name.upper().replace('-', '_')}_API_BASE",),
        auth=auth,
        paths=paths,
        rename=rename,
        rejects=tuple(rejects),
        usage=usage,
        quirks=frozenset(quirks.split()),
        prefixes=tuple(prefixes.split()),
        option_env={name: tuple(variables.split()) for name, variables in (options or {}).items()},
        headers=dict(headers or {}),
        doc=doc,
    )


# -- the two that give the formats their names, and those that need words of their own -------------------------------

_OPENAI = _row(
    "openai",
    "OpenAI",
    "https://api.openai.com/v1",
    "OPENAI_API_KEY",
    "https://platform.openai.com/docs/api-reference",
    base_env="OPENAI_API_BASE OPENAI_BASE_URL",
    paths=_EVERYTHING,
    rename={},
    prefixes="gpt- chatgpt- o1 o3 o4 codex- computer-use-preview text-embedding- davinci-002 babbage-002 dall-e- whisper- "
    "tts- omni-moderation- sora- ft:gpt- ft:o1 ft:o3 ft:o4 ft:davinci-002 ft:babbage-002",
)

_ANTHROPIC = Provider(
    name="anthropic",
    format="anthropic",
    title="Anthropic",
    base_url="https://api.anthropic.com",
    env=("ANTHROPIC_API_KEY",),
    base_env=("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"),
    auth="x-api-key",
    paths={"chat": "/v1/messages", "count_tokens": "/v1/messages/count_tokens"},
    usage="always",
    prefixes=("claude-",),
    doc="https://platform.claude.com/docs/en/api/overview",
)

_ENTRA = {
    "azure_ad_token": "AZURE_AD_TOKEN",
    "tenant_id": "AZURE_TENANT_ID",
    "client_id": "AZURE_CLIENT_ID",
    "client_secret": "AZURE_CLIENT_SECRET",
    "azure_username": "AZURE_USERNAME",
    "azure_password": "AZURE_PASSWORD",
    "azure_scope": "AZURE_SCOPE",
    "azure_credential": "AZURE_CREDENTIAL",
    "azure_authority_host": "AZURE_AUTHORITY_HOST",
}

_AZURE = _row(
    "azure",
    "Azure OpenAI",
    "",
    "AZURE_API_KEY AZURE_OPENAI_API_KEY",
    "https://learn.microsoft.com/azure/ai-foundry/openai/reference",
    base_env="AZURE_API_BASE AZURE_OPENAI_ENDPOINT",
    auth="api-key",
    rename={},
    paths=_under("/openai/deployments/{model}", _EVERYTHING, "?api-version={api_version}"),
    options=_ENTRA,
)

_AZURE_AI = _row(
    "azure_ai",
    "Azure AI Foundry",
    "",
    "AZURE_AI_API_KEY",
    "https://learn.microsoft.com/azure/ai-foundry/foundry-models/concepts/endpoints",
    auth="api-key",
    rename={},
    paths=_under("/models", _CHAT_EMBEDDINGS, f"?api-version={_FOUNDRY_VERSION}"),
    options=_ENTRA,
)

_GEMINI = Provider(
    name="gemini",
    format="gemini",
    title="Google AI Studio",
    base_url="https://generativelanguage.googleapis.com",
    env=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    base_env=("GEMINI_API_BASE",),
    auth="x-goog-api-key",
    paths={
        "chat": "/v1beta/models/{model}:generateContent",
        "embeddings": "/v1beta/models/{model}:batchEmbedContents",
        "images": "/v1beta/models/{model}:predict",
    },
    usage="always",
    prefixes=("gemini-",),
    doc="https://ai.google.dev/gemini-api/docs",
)

_IN_PROJECT = "/projects/{vertex_project}/locations/{vertex_location}"
_OF_GOOGLE = f"/v1beta1{_IN_PROJECT}/publishers/google/models/{{model}}"

_VERTEX = Provider(
    name="vertex_ai",
    format="gemini",
    title="Google Vertex AI",
    base_url="https://{vertex_location}-aiplatform.googleapis.com",
    env=("VERTEX_API_KEY",),
    base_env=("VERTEXAI_API_BASE", "VERTEX_API_BASE"),
    auth="google",
    option_env={
        "vertex_project": ("VERTEXAI_PROJECT", "VERTEX_PROJECT", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"),
        "vertex_location": (
            "VERTEXAI_LOCATION",
            "VERTEX_LOCATION",
            "GOOGLE_CLOUD_LOCATION",
            "GOOGLE_CLOUD_REGION",
        ),
        "vertex_credentials": (
            "VERTEXAI_CREDENTIALS",
            "VERTEX_CREDENTIALS",
            "GOOGLE_APPLICATION_CREDENTIALS",
        ),
    },
    option_defaults={"vertex_location": "us-central1"},
    paths={
        "chat": f"{_OF_GOOGLE}:generateContent",
        "embeddings": f"{_OF_GOOGLE}:predict",
        "images": f"{_OF_GOOGLE}:predict",
    },
    usage="always",
    doc="https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference",
)

_GLOBALLY = {"vertex_location": "global"}
_VERTEX_NEW = replace(_VERTEX, option_defaults=_GLOBALLY)
_VERTEX_TUNED = replace(_VERTEX, paths={"chat": f"/v1beta1{_IN_PROJECT}/endpoints/{{model}}:generateContent"})
_VERTEX_CLAUDE = replace(
    _VERTEX,
    format="vertex",
    option_defaults=_GLOBALLY,
    paths={
        "chat": f"/v1{_IN_PROJECT}/publishers/anthropic/models/{{model}}:rawPredict",
        "count_tokens": f"/v1{_IN_PROJECT}/publishers/anthropic/models/count-tokens:rawPredict",
    },
)
_VERTEX_MISTRAL = replace(
    _VERTEX,
    format="vertex_openai",
    paths={"chat": f"/v1{_IN_PROJECT}/publishers/mistralai/models/{{model}}:rawPredict"},
    rename=_MAX_TOKENS,
    quirks=frozenset({"mistral"}),
)
_VERTEX_AI21 = replace(
    _VERTEX,
    format="vertex_openai",
    paths={"chat": f"/v1{_IN_PROJECT}/publishers/ai21/models/{{model}}:rawPredict"},
    rename=_MAX_TOKENS,
)
_VERTEX_OPENAI = replace(
    _VERTEX,
    format="openai",
    paths={"chat": f"/v1{_IN_PROJECT}/endpoints/openapi/chat/completions"},
    rename=_MAX_TOKENS,
    usage="ask",
)


_SINCE_3 = re.compile(r"gemini-(?:[3-9]|[1-9]\d|[a-z-]*latest)")


def _at_vertex(model: str) -> tuple[Provider, str]:
    """Whose model is it? Google's, or of a company whose models speak another format there, at another path."""
    model = model.removeprefix("google/gemini/").removeprefix("gemini/")
    for prefix, row in (
        ("claude-", _VERTEX_CLAUDE),
        ("anthropic/", _VERTEX_CLAUDE),
        ("mistral-", _VERTEX_MISTRAL),
        ("codestral-", _VERTEX_MISTRAL),
        ("ministral-", _VERTEX_MISTRAL),
        ("mistralai/", _VERTEX_MISTRAL),
        ("jamba-", _VERTEX_AI21),
        ("openapi/", _VERTEX_OPENAI),
    ):
        if model.startswith(prefix):
            return row, model.removeprefix(prefix) if prefix.endswith("/") else model
    if "/" in model:
        return _VERTEX_OPENAI, model
    if model.isdigit():
        return _VERTEX_TUNED, model
    return (_VERTEX_NEW if _SINCE_3.match(model) else _VERTEX), model


_COHERE = Provider(
    name="cohere",
    format="cohere",
    title="Cohere",
    base_url="https://api.cohere.com",
    env=("COHERE_API_KEY", "CO_API_KEY"),
    base_env=("COHERE_API_BASE",),
    paths={"chat": "/v2/chat", "embeddings": "/v2/embed", "rerank": "/v2/rerank"}
    | {"transcriptions": "/v2/audio/transcriptions"},
    usage="always",
    prefixes=(
        *("command", "c4ai-", "embed-english-", "embed-multilingual-", "embed-v4", "embed-v5"),
        *("rerank-english-", "rerank-multilingual-", "rerank-v3", "rerank-v4", "rerank-v5"),
    ),
    doc="https://docs.cohere.com/reference/about",
)
_COHERE_ENDS = re.compile(r"(/compatibility)?/v[12](/(chat|embed|rerank|audio/transcriptions))?$")
"""What people write after Cohere's host."""

_MISTRAL_REJECTS = (
    "user",
    "logit_bias",
    "stream_options",
    "store",
    "service_tier",
    "modalities",
    "audio",
    "verbosity",
    "safety_identifier",
    "web_search_options",
    "functions",
    "function_call",
    "prompt_cache_options",
    "prompt_cache_retention",
)
_FIM = {"completions": "/fim/completions"}
_MISTRAL_RENAME = _MAX_TOKENS | {"seed": "random_seed"}

_MISTRAL = _row(
    "mistral",
    "Mistral AI",
    "https://api.mistral.ai/v1",
    "MISTRAL_API_KEY",
    "https://docs.mistral.ai/api",
    paths=_CHAT_EMBEDDINGS | _FIM | _SPEECH | _TRANSCRIPTIONS,
    rename=_MISTRAL_RENAME,
    rejects=_MISTRAL_REJECTS,
    usage="always",
    quirks="mistral",
    prefixes="mistral- open-mistral- open-mixtral- ministral- magistral- pixtral- devstral- codestral- voxtral- "
    "ft:open-mistral- ft:mistral- ft:ministral- ft:codestral-",
)

_CODESTRAL = _row(
    "codestral",
    "Codestral",
    "https://codestral.mistral.ai/v1",
    "CODESTRAL_API_KEY",
    "https://docs.mistral.ai/capabilities/code_generation",
    paths=_CHAT | _FIM,
    rename=_MISTRAL_RENAME,
    rejects=_MISTRAL_REJECTS,
    usage="always",
    quirks="mistral",
)

_AWS_REGION: dict[str, tuple[str, ...]] = {
    "aws_region_name": ("AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION")
}

_BEDROCK = Provider(
    name="bedrock",
    format="bedrock",
    title="Amazon Bedrock",
    base_url="https://bedrock-runtime.{aws_region_name}.amazonaws.com",
    env=("AWS_BEARER_TOKEN_BEDROCK",),
    base_env=("AWS_BEDROCK_RUNTIME_ENDPOINT",),
    auth="aws",
    option_env=_AWS_REGION,
    option_defaults={"aws_signing_name": "bedrock"},
    paths={"chat": "/model/{model}/converse"}
    | dict.fromkeys(("embeddings", "rerank", "images"), "/model/{model}/invoke"),
    usage="always",
    doc="https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html",
)

_BEDROCK_MANTLE = Provider(
    name="bedrock_mantle",
    title="Amazon Bedrock in OpenAI's format",
    base_url="https://bedrock-mantle.{aws_region_name}.api.aws",
    env=("AWS_BEARER_TOKEN_BEDROCK",),
    base_env=("BEDROCK_MANTLE_API_BASE",),
    auth="aws",
    option_env=_AWS_REGION,
    option_defaults={"aws_signing_name": "bedrock-mantle"},
    paths=_under("/v1", _CHAT),
    doc="https://docs.aws.amazon.com/bedrock/latest/userguide/bedrock-mantle.html",
)

_SAGEMAKER = Provider(
    name="sagemaker",
    format="sagemaker",
    title="Amazon SageMaker",
    base_url="https://runtime.sagemaker.{aws_region_name}.amazonaws.com",
    base_env=("SAGEMAKER_API_BASE",),
    auth="aws",
    option_env=_AWS_REGION,
    option_defaults={"aws_signing_name": "sagemaker"},
    paths={"chat": "/endpoints/{model}/invocations"},
    rename=_MAX_TOKENS,
    quirks=frozenset({"top_k"}),
    doc="https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html",
)

_OWN_WORDS = (
    _OPENAI,
    _ANTHROPIC,
    _AZURE,
    _AZURE_AI,
    _GEMINI,
    _VERTEX,
    _COHERE,
    _MISTRAL,
    _CODESTRAL,
    _BEDROCK,
    _BEDROCK_MANTLE,
    _SAGEMAKER,
)


# -- companies that speak OpenAI's format ----------------------------------------------------------------------------

_WATSONX_OPTIONS = {
    "watsonx_region_name": ("WATSONX_REGION", "WX_REGION"),
    "project_id": ("WATSONX_PROJECT_ID", "WX_PROJECT_ID"),
    "space_id": ("WATSONX_DEPLOYMENT_SPACE_ID", "WATSONX_SPACE_ID", "WX_SPACE_ID"),
    "token": ("WATSONX_TOKEN",),
    "zen_api_key": ("WATSONX_ZENAPIKEY",),
}

_COMPANIES = (
    _row(
        "groq",
        "Groq",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        "https://console.groq.com/docs/openai",
        paths=_CHAT | _SPEECH | _AUDIO_IN,
        rename={},
        rejects=("logprobs", "top_logprobs", "logit_bias"),
    ),
    _row(
        "deepseek",
        "DeepSeek",
        "https://api.deepseek.com",
        "DEEPSEEK_API_KEY",
        "https://api-docs.deepseek.com",
        paths=_CHAT | {"completions": "/beta/completions"},
        quirks="reasoning_content",
        prefixes="deepseek-chat deepseek-reasoner deepseek-v",
    ),
    _row(
        "xai",
        "xAI",
        "https://api.x.ai/v1",
        "XAI_API_KEY",
        "https://docs.x.ai/docs/api-reference",
        paths=_ALL | _IMAGES | {"speech": "/tts", "transcriptions": "/stt"},
        rename={},
        quirks="reasoning_outside_completion bills",
        prefixes="grok-",
    ),
    _row(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY OR_API_KEY",
        "https://openrouter.ai/docs/api-reference/overview",
        paths=_ALL | _SPEECH | _RERANK,
        quirks="cache_control top_k reasoning_details bills",
    ),
    _row(
        "together_ai",
        "Together AI",
        "https://api.together.xyz/v1",
        "TOGETHER_API_KEY TOGETHERAI_API_KEY TOGETHER_AI_API_KEY TOGETHER_AI_TOKEN",
        "https://docs.together.ai/docs/openai-api-compatibility",
        base_env="TOGETHER_AI_API_BASE",
        paths=_EVERYTHING | _RERANK,
        quirks="top_k",
    ),
    _row(
        "fireworks_ai",
        "Fireworks AI",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY FIREWORKS_AI_API_KEY FIREWORKSAI_API_KEY FIREWORKS_AI_TOKEN",
        "https://docs.fireworks.ai/tools-sdks/openai-compatibility",
        base_env="FIREWORKS_API_BASE",
        paths=_ALL | _RERANK,
        quirks="top_k",
    ),
    _row(
        "cerebras",
        "Cerebras",
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        "https://inference-docs.cerebras.ai/resources/openai",
        paths=_TEXT,
        rename={},
        rejects=("frequency_penalty", "presence_penalty", "logit_bias", "service_tier"),
    ),
    _row(
        "perplexity",
        "Perplexity",
        "https://api.perplexity.ai",
        "PERPLEXITYAI_API_KEY PERPLEXITY_API_KEY",
        "https://docs.perplexity.ai/api-reference/chat-completions-post",
        paths=_CHAT | {"embeddings": "/v1/embeddings"},
        rejects=("stream_options",),
        usage="always",
        quirks="top_k bills",
        prefixes="sonar",
    ),
    _row(
        "writer",
        "Writer",
        "https://api.writer.com/v1",
        "WRITER_API_KEY",
        "https://dev.writer.com/api-reference/completion-api/chat-completion",
        paths={"chat": "/chat", "completions": "/completions"},
        usage="always",
    ),
    _row(
        "moonshot",
        "Moonshot AI",
        "https://api.moonshot.ai/v1",
        "MOONSHOT_API_KEY",
        "https://platform.moonshot.ai/docs/api/chat",
        paths=_CHAT,
        quirks="reasoning_content",
        prefixes="kimi- moonshot-v1",
    ),
    _row(
        "zai",
        "Z.ai",
        "https://api.z.ai/api/paas/v4",
        "ZAI_API_KEY",
        "https://docs.z.ai/api-reference/llm/chat-completion",
        paths=_CHAT_EMBEDDINGS | _IMAGES,
        quirks="reasoning_content",
        prefixes="glm-",
    ),
    _row(
        "bigmodel",
        "BigModel (Zhipu)",
        "https://open.bigmodel.cn/api/paas/v4",
        "BIGMODEL_API_KEY",
        "https://docs.bigmodel.cn/cn/guide/develop/openai/introduction",
        paths=_CHAT_EMBEDDINGS | _IMAGES,
        quirks="reasoning_content",
    ),
    _row(
        "dashscope",
        "Alibaba Model Studio",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "DASHSCOPE_API_KEY",
        "https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope",
        paths=_CHAT_EMBEDDINGS,
        quirks="cache_control top_k",
        prefixes="qwen-max qwen-plus qwen-turbo qwen-flash qwen-long qwq-plus",
    ),
    _row(
        "modelscope",
        "ModelScope",
        "https://api-inference.modelscope.cn/v1",
        "MODELSCOPE_API_KEY",
        "https://modelscope.cn/docs/model-service/API-Inference/intro",
        paths=_CHAT_EMBEDDINGS,
    ),
    _row(
        "minimax",
        "MiniMax",
        "https://api.minimax.io/v1",
        "MINIMAX_API_KEY",
        "https://platform.minimax.io/docs/api-reference/text-openai-api",
        paths=_CHAT,
        prefixes="MiniMax-",
    ),
    _row(
        "volcengine",
        "Volcengine Ark",
        "https://ark.cn-beijing.volces.com/api/v3",
        "VOLCENGINE_API_KEY ARK_API_KEY",
        "https://www.volcengine.com/docs/82379/1298454",
        paths=_CHAT_EMBEDDINGS,
    ),
    _row(
        "tencent",
        "Tencent TokenHub",
        "https://tokenhub-intl.tencentcloudmaas.com/v1",
        "TENCENT_API_KEY",
        "https://www.tencentcloud.com/document/product",
        paths=_CHAT,
    ),
    _row(
        "xiaomi_mimo",
        "Xiaomi MiMo",
        "https://api.xiaomimimo.com/v1",
        "XIAOMI_MIMO_API_KEY",
        "https://platform.xiaomimimo.com",
        paths=_CHAT,
    ),
    _row(
        "nvidia_nim",
        "NVIDIA NIM",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA_NIM_API_KEY NVIDIA_API_KEY",
        "https://docs.api.nvidia.com/nim/reference/llm-apis",
    ),
    _row(
        "sambanova",
        "SambaNova",
        "https://api.sambanova.ai/v1",
        "SAMBANOVA_API_KEY",
        "https://docs.sambanova.ai/docs/en/features/openai-compatibility",
        paths=_CHAT_EMBEDDINGS | _AUDIO_IN,
        quirks="top_k",
    ),
    _row(
        "deepinfra",
        "DeepInfra",
        "https://api.deepinfra.com/v1",
        "DEEPINFRA_API_KEY",
        "https://deepinfra.com/docs/openai_api",
        paths=_under("/openai", _EVERYTHING) | {"rerank": "/inference/{model}"},
        quirks="top_k",
    ),
    _row(
        "nebius",
        "Nebius AI Studio",
        "https://api.studio.nebius.ai/v1",
        "NEBIUS_API_KEY",
        "https://docs.studio.nebius.com/api-reference",
        quirks="top_k",
    ),
    _row(
        "novita",
        "Novita AI",
        "https://api.novita.ai/v3/openai",
        "NOVITA_API_KEY",
        "https://novita.ai/docs/guides/llm-api",
        quirks="top_k",
    ),
    _row(
        "hyperbolic",
        "Hyperbolic",
        "https://api.hyperbolic.xyz/v1",
        "HYPERBOLIC_API_KEY",
        "https://docs.hyperbolic.xyz/docs/rest-api",
        paths=_TEXT,
        quirks="top_k",
    ),
    _row(
        "lambda_ai",
        "Lambda",
        "https://api.lambda.ai/v1",
        "LAMBDA_API_KEY",
        "https://docs.lambda.ai/public-cloud/lambda-inference-api",
        base_env="LAMBDA_API_BASE",
        paths=_TEXT,
    ),
    _row(
        "featherless_ai",
        "Featherless AI",
        "https://api.featherless.ai/v1",
        "FEATHERLESS_AI_API_KEY FEATHERLESS_API_KEY",
        "https://featherless.ai/docs/api-overview-and-common-options",
        base_env="FEATHERLESS_AI_API_BASE FEATHERLESS_API_BASE",
        paths=_TEXT,
        quirks="top_k",
    ),
    _row(
        "friendliai",
        "FriendliAI",
        "https://api.friendli.ai/serverless/v1",
        "FRIENDLI_TOKEN FRIENDLIAI_API_KEY",
        "https://friendli.ai/docs/openapi/serverless/chat-completions",
        base_env="FRIENDLI_API_BASE",
        paths=_TEXT,
        quirks="top_k",
    ),
    _row(
        "baseten",
        "Baseten",
        "https://inference.baseten.co/v1",
        "BASETEN_API_KEY",
        "https://docs.baseten.co/development/model-apis/overview",
        paths=_TEXT,
        quirks="top_k",
    ),
    _row(
        "github",
        "GitHub Models",
        "https://models.github.ai/inference",
        "GITHUB_API_KEY GITHUB_TOKEN",
        "https://docs.github.com/en/rest/models/inference",
        paths=_CHAT_EMBEDDINGS,
    ),
    _row(
        "meta_llama",
        "Meta Llama API",
        "https://api.llama.com/compat/v1",
        "LLAMA_API_KEY",
        "https://llama.developer.meta.com/docs/features/compatibility",
        base_env="LLAMA_API_BASE",
        paths=_CHAT,
        rename={},
    ),
    _row(
        "meta",
        "Meta Model API",
        "https://api.meta.ai/v1",
        "META_API_KEY",
        "https://developer.meta.com/ai",
        paths=_CHAT,
        rename={},
    ),
    _row(
        "ai21",
        "AI21",
        "https://api.ai21.com/studio/v1",
        "AI21_API_KEY",
        "https://docs.ai21.com/reference/jamba-1-6-api-ref",
        paths=_CHAT,
        prefixes="jamba-",
    ),
    _row(
        "amazon_nova",
        "Amazon Nova",
        "https://api.nova.amazon.com/v1",
        "AMAZON_NOVA_API_KEY",
        "https://nova.amazon.com/dev/documentation",
        paths=_CHAT,
    ),
    _row(
        "vercel_ai_gateway",
        "Vercel AI Gateway",
        "https://ai-gateway.vercel.sh/v1",
        "VERCEL_AI_GATEWAY_API_KEY AI_GATEWAY_API_KEY",
        "https://vercel.com/docs/ai-gateway/openai-compat",
        paths=_CHAT_EMBEDDINGS,
        quirks="cache_control",
    ),
    _row(
        "v0",
        "v0",
        "https://api.v0.dev/v1",
        "V0_API_KEY",
        "https://v0.app/docs/api/model",
        paths=_CHAT,
        rename={},
    ),
    _row(
        "morph",
        "Morph",
        "https://api.morphllm.com/v1",
        "MORPH_API_KEY",
        "https://docs.morphllm.com/api-reference",
        paths=_CHAT_EMBEDDINGS,
    ),
    _row(
        "inception",
        "Inception",
        "https://api.inceptionlabs.ai/v1",
        "INCEPTION_API_KEY",
        "https://docs.inceptionlabs.ai",
        paths=_CHAT,
    ),
    _row(
        "wandb",
        "W&B Inference",
        "https://api.inference.wandb.ai/v1",
        "WANDB_API_KEY",
        "https://docs.wandb.ai/inference",
        paths=_TEXT,
        quirks="top_k",
    ),
    _row(
        "ovhcloud",
        "OVHcloud AI Endpoints",
        "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1",
        "OVHCLOUD_API_KEY",
        "https://help.ovhcloud.com/csm/en-public-cloud-ai-endpoints-getting-started?id=kb_article_view&sysparm_article=KB0065401",
    ),
    _row(
        "nscale",
        "Nscale",
        "https://inference.api.nscale.com/v1",
        "NSCALE_API_KEY",
        "https://docs.nscale.com/api-reference/chat-completion/create-chat-completion",
        paths=_CHAT | _IMAGES,
    ),
    _row(
        "crusoe",
        "Crusoe",
        "https://api.inference.crusoecloud.com/v1",
        "CRUSOE_API_KEY",
        "https://docs.crusoecloud.com/managed-inference/overview",
        paths=_TEXT,
        quirks="top_k",
    ),
    _row(
        "scaleway",
        "Scaleway",
        "https://api.scaleway.ai/v1",
        "SCW_SECRET_KEY",
        "https://www.scaleway.com/en/docs/generative-apis/api-cli/using-chat-api",
        paths=_CHAT_EMBEDDINGS | _TRANSCRIPTIONS,
    ),
    _row(
        "venice",
        "Venice.ai",
        "https://api.venice.ai/api/v1",
        "VENICE_AI_API_KEY VENICE_API_KEY",
        "https://docs.venice.ai/api-reference",
        paths=_CHAT_EMBEDDINGS | _IMAGES | _SPEECH | _TRANSCRIPTIONS,
        quirks="top_k",
    ),
    _row(
        "poe",
        "Poe",
        "https://api.poe.com/v1",
        "POE_API_KEY",
        "https://creator.poe.com/docs/external-applications/openai-compatible-api",
        paths=_CHAT,
    ),
    _row(
        "chutes",
        "Chutes",
        "https://llm.chutes.ai/v1",
        "CHUTES_API_KEY",
        "https://chutes.ai/docs",
        quirks="top_k",
    ),
    _row(
        "parasail",
        "Parasail",
        "https://api.parasail.io/v1",
        "PARASAIL_API_KEY",
        "https://docs.parasail.io/parasail-docs/serverless-and-dedicated",
        rejects=("store",),
        quirks="top_k",
    ),
    _row(
        "gmi",
        "GMI Cloud",
        "https://api.gmi-serving.com/v1",
        "GMI_API_KEY",
        "https://docs.gmicloud.ai/inference-engine",
        paths=_CHAT,
    ),
    _row(
        "synthetic",
        "Synthetic",
        "https://api.synthetic.new/openai/v1",
        "SYNTHETIC_API_KEY",
        "https://dev.synthetic.new/docs/api/overview",
        quirks="top_k",
    ),
    _row(
        "nano-gpt",
        "NanoGPT",
        "https://nano-gpt.com/api/v1",
        "NANOGPT_API_KEY",
        "https://docs.nano-gpt.com",
        base_env="NANOGPT_API_BASE",
    ),
    _row(
        "helicone",
        "Helicone AI Gateway",
        "https://ai-gateway.helicone.ai",
        "HELICONE_API_KEY",
        "https://docs.helicone.ai/gateway/overview",
        paths=_CHAT,
    ),
    _row(
        "aihubmix",
        "AIHubMix",
        "https://aihubmix.com/v1",
        "AIHUBMIX_API_KEY",
        "https://docs.aihubmix.com/en",
    ),
    _row(
        "aiml",
        "AI/ML API",
        "https://api.aimlapi.com/v1",
        "AIML_API_KEY AIMLAPI_KEY",
        "https://docs.aimlapi.com",
        paths=_CHAT_EMBEDDINGS,
    ),
    _row(
        "cometapi",
        "CometAPI",
        "https://api.cometapi.com/v1",
        "COMETAPI_KEY COMETAPI_API_KEY",
        "https://apidoc.cometapi.com",
        base_env="COMETAPI_API_BASE COMETAPI_BASE_URL",
        paths=_CHAT_EMBEDDINGS,
    ),
    _row(
        "edenai",
        "Eden AI",
        "https://api.edenai.run/v3",
        "EDENAI_API_KEY",
        "https://docs.edenai.co",
        paths=_CHAT,
    ),
    _row(
        "compactifai",
        "CompactifAI",
        "https://api.compactif.ai/v1",
        "COMPACTIFAI_API_KEY",
        "https://docs.compactif.ai",
        paths=_TEXT,
    ),
    _row(
        "clarifai",
        "Clarifai",
        "https://api.clarifai.com/v2/ext/openai/v1",
        "CLARIFAI_API_KEY CLARIFAI_PAT",
        "https://docs.clarifai.com/compute/inference/open-ai",
        paths=_CHAT,
    ),
    _row(
        "publicai",
        "Public AI",
        "https://api.publicai.co/v1",
        "PUBLICAI_API_KEY",
        "https://platform.publicai.co/docs",
        paths=_CHAT,
    ),
    _row(
        "libertai",
        "LibertAI",
        "https://api.libertai.io/v1",
        "LIBERTAI_API_KEY",
        "https://docs.libertai.io",
        paths=_CHAT_EMBEDDINGS,
    ),
    _row(
        "cortecs",
        "cortecs",
        "https://api.cortecs.ai/v1",
        "CORTECS_API_KEY",
        "https://docs.cortecs.ai",
        paths=_CHAT,
    ),
    _row(
        "hostinger_router",
        "Hostinger Router",
        "https://router.hostinger.com/v1",
        "HOSTINGER_ROUTER_API_KEY",
        "https://router.hostinger.com/docs",
        paths=_CHAT_EMBEDDINGS,
    ),
    _row(
        "llamagate",
        "LlamaGate",
        "https://api.llamagate.dev/v1",
        "LLAMAGATE_API_KEY",
        "https://llamagate.dev/docs",
        paths=_CHAT_EMBEDDINGS,
    ),
    _row(
        "reka",
        "Reka",
        "https://api.reka.ai/v1",
        "REKA_API_KEY",
        "https://docs.reka.ai",
        paths=_CHAT,
    ),
    _row(
        "assemblyai",
        "AssemblyAI LLM Gateway",
        "https://llm-gateway.assemblyai.com/v1",
        "ASSEMBLYAI_API_KEY",
        "https://www.assemblyai.com/docs/llm-gateway/overview",
        paths=_CHAT,
    ),
    _row(
        "siliconflow",
        "SiliconFlow",
        "https://api.siliconflow.com/v1",
        "SILICONFLOW_API_KEY",
        "https://docs.siliconflow.com/en/api-reference/chat-completions/chat-completions",
        paths=_CHAT_EMBEDDINGS | _IMAGES | _SPEECH | _TRANSCRIPTIONS | _RERANK,
        quirks="top_k",
    ),
    _row(
        "siliconflow_cn",
        "SiliconFlow (China)",
        "https://api.siliconflow.cn/v1",
        "SILICONFLOW_CN_API_KEY",
        "https://docs.siliconflow.cn/cn/api-reference/chat-completions/chat-completions",
        paths=_CHAT_EMBEDDINGS | _IMAGES | _SPEECH | _TRANSCRIPTIONS | _RERANK,
        quirks="top_k",
    ),
    _row(
        "qwen_ai_platform",
        "Alibaba Model Studio (China)",
        "https://dashscope.aliyuncs.com/compatible-mode/v1",
        "QWEN_AI_PLATFORM_API_KEY DASHSCOPE_CN_API_KEY",
        "https://help.aliyun.com/zh/model-studio/compatibility-of-openai-with-dashscope",
        paths=_CHAT_EMBEDDINGS,
        quirks="cache_control top_k",
    ),
    _row(
        "moonshot_cn",
        "Moonshot AI (China)",
        "https://api.moonshot.cn/v1",
        "MOONSHOT_API_KEY",
        "https://platform.moonshot.cn/docs/api/chat",
        paths=_CHAT,
        quirks="reasoning_content",
    ),
    _row(
        "minimax_cn",
        "MiniMax (China)",
        "https://api.minimaxi.com/v1",
        "MINIMAX_API_KEY",
        "https://platform.minimaxi.com/document/ChatCompletion",
        paths=_CHAT,
    ),
    _row(
        "streamlake",
        "StreamLake",
        "https://vanchin.streamlake.ai/api/gateway/v1/endpoints",
        "STREAMLAKE_API_KEY",
        "https://docs.litellm.ai/docs/providers/openai_compatible",
        paths=_CHAT,
        rename={"max_tokens": "max_completion_tokens"},
        quirks="cache_control",
    ),
    _row(
        "cloudflare",
        "Cloudflare Workers AI",
        "https://api.cloudflare.com/client/v4/accounts/{account_id}/ai/v1",
        "CLOUDFLARE_API_KEY CLOUDFLARE_API_TOKEN",
        "https://developers.cloudflare.com/workers-ai/configuration/open-ai-compatibility",
        paths=_CHAT_EMBEDDINGS,
        options={"account_id": "CLOUDFLARE_ACCOUNT_ID"},
    ),
    _row(
        "gradient_ai",
        "DigitalOcean Gradient AI",
        "https://inference.do-ai.run",
        "GRADIENT_AI_API_KEY",
        "https://docs.digitalocean.com/products/gradient-ai-platform/how-to/use-serverless-inference",
        paths=_under("/v1", _CHAT),
    ),
    _row(
        "heroku",
        "Heroku Managed Inference",
        "",
        "HEROKU_API_KEY INFERENCE_KEY",
        "https://devcenter.heroku.com/articles/heroku-inference-api-v1-chat-completions",
        base_env="HEROKU_API_BASE INFERENCE_URL",
        paths=_under("/v1", _CHAT_EMBEDDINGS),
    ),
    _row(
        "databricks",
        "Databricks",
        "",
        "DATABRICKS_API_KEY DATABRICKS_TOKEN",
        "https://docs.databricks.com/aws/en/machine-learning/model-serving/score-foundation-models",
    ),
    replace(
        _row(
            "snowflake",
            "Snowflake Cortex",
            "https://{account_id}.snowflakecomputing.com",
            "SNOWFLAKE_JWT SNOWFLAKE_PAT SNOWFLAKE_API_KEY",
            "https://docs.snowflake.com/en/user-guide/snowflake-cortex/cortex-rest-api",
            paths=_under("/api/v2/cortex/v1", _CHAT),
            rename={},
        ),
        option_env={"account_id": ("SNOWFLAKE_ACCOUNT_ID",)},
    ),
    replace(
        _row(
            "huggingface",
            "Hugging Face",
            "https://router.huggingface.co",
            "HUGGINGFACE_API_KEY HF_TOKEN",
            "https://huggingface.co/docs/inference-providers",
            base_env="HUGGINGFACE_API_BASE HF_API_BASE",
            paths={
                "chat": "/v1/chat/completions",
                "embeddings": "/hf-inference/models/{model}/pipeline/feature-extraction",
                "rerank": "/rerank",
            },
        ),
        format="huggingface",
    ),
    Provider(
        name="aleph_alpha",
        format="aleph_alpha",
        title="Aleph Alpha",
        base_url="https://api.aleph-alpha.com",
        env=("ALEPH_ALPHA_API_KEY", "ALEPHALPHA_API_KEY"),
        base_env=("ALEPH_ALPHA_API_BASE",),
        paths=_CHAT,
        rename=_MAX_TOKENS,
        prefixes=("luminous-",),
        doc="https://docs.aleph-alpha.com/api/pharia-inference",
    ),
    Provider(
        name="watsonx",
        format="watsonx",
        title="IBM watsonx.ai",
        base_url="https://{watsonx_region_name}.ml.cloud.ibm.com",
        env=("WATSONX_APIKEY", "WATSONX_API_KEY", "WX_API_KEY"),
        base_env=("WATSONX_API_BASE", "WATSONX_URL", "WX_URL", "WML_URL"),
        auth="iam",
        option_env=_WATSONX_OPTIONS,
        option_defaults={"watsonx_region_name": "us-south"},
        paths={
            "chat": "/ml/v1/text/chat",
            "embeddings": "/ml/v1/text/embeddings",
            "rerank": "/ml/v1/text/rerank",
        },
        rejects=("parallel_tool_calls", "top_k", "user"),
        usage="always",
        doc="https://cloud.ibm.com/apidocs/watsonx-ai",
    ),
    Provider(
        name="watsonx_text",
        format="watsonx_text",
        title="IBM watsonx.ai, models without chat",
        base_url="https://{watsonx_region_name}.ml.cloud.ibm.com",
        env=("WATSONX_APIKEY", "WATSONX_API_KEY", "WX_API_KEY"),
        base_env=("WATSONX_API_BASE", "WATSONX_URL", "WX_URL", "WML_URL"),
        auth="iam",
        option_env=_WATSONX_OPTIONS,
        option_defaults={"watsonx_region_name": "us-south"},
        paths={"chat": "/ml/v1/text/generation"},
        usage="always",
        doc="https://cloud.ibm.com/apidocs/watsonx-ai#text-generation",
    ),
    Provider(
        name="replicate",
        format="replicate",
        title="Replicate",
        base_url="https://api.replicate.com/v1",
        env=("REPLICATE_API_TOKEN", "REPLICATE_API_KEY"),
        base_env=("REPLICATE_API_BASE",),
        paths={"chat": "/models/{model}/predictions", "images": "/models/{model}/predictions"},
        usage="none",
        doc="https://replicate.com/docs/reference/http",
    ),
    Provider(
        name="stability",
        format="stability",
        title="Stability AI",
        base_url="https://api.stability.ai",
        env=("STABILITY_API_KEY",),
        base_env=("STABILITY_API_BASE",),
        paths={"images": "/v2beta/stable-image/generate"},
        usage="none",
        doc="https://platform.stability.ai/docs/api-reference",
    ),
    _row(
        "voyage",
        "Voyage AI",
        "https://api.voyageai.com/v1",
        "VOYAGE_API_KEY VOYAGE_AI_API_KEY VOYAGE_AI_TOKEN",
        "https://docs.voyageai.com/reference/embeddings-api",
        paths=_EMBEDDINGS | _RERANK,
        prefixes="voyage- rerank-2",
    ),
    _row(
        "jina_ai",
        "Jina AI",
        "https://api.jina.ai/v1",
        "JINA_AI_API_KEY JINA_API_KEY JINA_AI_TOKEN",
        "https://jina.ai/embeddings",
        paths=_EMBEDDINGS | _RERANK,
        prefixes="jina-",
    ),
)


_COMPATIBLE = tuple(_row(*plain, paths=_CHAT) for plain in COMPANIES)

# -- servers that people run themselves ------------------------------------------------------------------------------

_OWN_SERVERS = (
    _row(
        "hosted_vllm",
        "vLLM",
        "http://localhost:8000/v1",
        "HOSTED_VLLM_API_KEY",
        "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
        paths=_ALL | _AUDIO_IN | _RERANK,
        quirks="optional_key top_k",
    ),
    Provider(
        name="ollama",
        format="ollama_native",
        title="Ollama",
        base_url="http://localhost:11434",
        env=("OLLAMA_API_KEY",),
        base_env=("OLLAMA_API_BASE",),
        paths={"chat": "/api/chat", "embeddings": "/api/embed"},
        usage="always",
        quirks=frozenset({"optional_key"}),
        doc="https://docs.ollama.com/api/introduction",
    ),
    _row(
        "lm_studio",
        "LM Studio",
        "http://localhost:1234/v1",
        "LM_STUDIO_API_KEY",
        "https://lmstudio.ai/docs/developer/openai-compat",
        quirks="optional_key top_k",
    ),
    _row(
        "llamafile",
        "llamafile, llama.cpp",
        "http://127.0.0.1:8080/v1",
        "LLAMAFILE_API_KEY",
        "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        paths=_ALL | _RERANK,
        quirks="optional_key top_k",
    ),
    _row(
        "localai",
        "LocalAI",
        "http://localhost:8080/v1",
        "LOCALAI_API_KEY",
        "https://localai.io/features/text-generation",
        paths=_ALL | _IMAGES | _SPEECH | _TRANSCRIPTIONS | _RERANK,
        quirks="optional_key top_k",
    ),
    _row(
        "xinference",
        "Xinference",
        "http://localhost:9997/v1",
        "XINFERENCE_API_KEY",
        "https://inference.readthedocs.io/en/latest/user_guide/client_api.html",
        paths=_EVERYTHING | _RERANK,
        quirks="optional_key top_k",
    ),
    _row(
        "docker_model_runner",
        "Docker Model Runner",
        "http://localhost:12434/engines",
        "DOCKER_MODEL_RUNNER_API_KEY",
        "https://docs.docker.com/ai/model-runner/api-reference",
        paths=_under("/v1", _ALL),
        quirks="optional_key top_k",
    ),
    _row(
        "lemonade",
        "Lemonade",
        "http://localhost:8000/api/v1",
        "LEMONADE_API_KEY",
        "https://lemonade-server.ai/docs/server/server_spec",
        quirks="optional_key top_k",
    ),
    _row(
        "gpustack",
        "GPUStack",
        "",
        "GPUSTACK_API_KEY",
        "https://docs.gpustack.ai/latest/user-guide/openai-compatible-apis",
        paths=_ALL | _IMAGES | _SPEECH | _TRANSCRIPTIONS | _RERANK,
        quirks="optional_key top_k",
    ),
    _row(
        "oobabooga",
        "text-generation-webui",
        "http://127.0.0.1:5000/v1",
        "OOBABOOGA_API_KEY",
        "https://github.com/oobabooga/text-generation-webui/wiki/12-%E2%80%90-OpenAI-API",
        quirks="optional_key top_k",
    ),
    _row(
        "infinity",
        "Infinity",
        "http://localhost:7997",
        "INFINITY_API_KEY",
        "https://michaelfeil.eu/infinity",
        paths=_EMBEDDINGS | _RERANK,
        quirks="optional_key",
    ),
    _row(
        "litellm_proxy",
        "another Penstock or LiteLLM",
        "",
        "LITELLM_PROXY_API_KEY",
        "https://docs.litellm.ai/docs/providers/litellm_proxy",
        paths=_EVERYTHING | _RERANK,
        rename={},
        quirks="optional_key cache_control top_k",
    ),
    _row(
        "custom_openai",
        "any OpenAI-compatible server",
        "",
        "CUSTOM_OPENAI_API_KEY OPENAI_LIKE_API_KEY",
        "https://platform.openai.com/docs/api-reference/chat",
        base_env="CUSTOM_OPENAI_API_BASE OPENAI_LIKE_API_BASE",
        paths=_EVERYTHING | _RERANK,
        quirks="optional_key top_k",
    ),
)

_OLLAMA_OPENAI = re.compile(r"(/v1)(/chat/completions|/completions|/embeddings)?$")
"""The end of an address at which Ollama speaks OpenAI's format."""

PROVIDERS: dict[str, Provider] = {
    row.name: row for row in (*_OWN_WORDS, *_COMPANIES, *_COMPATIBLE, *_OWN_SERVERS)
}
"""Every provider, by the name that stands before the slash in `provider/model`."""

ALIASES: dict[str, str] = {
    "azure_text": "azure",
    "text-completion-openai": "openai",
    "text-completion-codestral": "codestral",
    "cohere_chat": "cohere",
    "google": "gemini",
    "bedrock_converse": "bedrock",
    "sagemaker_chat": "sagemaker",
    "vertex": "vertex_ai",
    "vertex_ai_beta": "vertex_ai",
    "together": "together_ai",
    "fireworks": "fireworks_ai",
    "ai21_chat": "ai21",
    "veniceai": "venice",
    "nanogpt": "nano-gpt",
    "qwencloud": "dashscope",
    "vllm": "hosted_vllm",
    "ollama_chat": "ollama",
    "llama_cpp": "llamafile",
    "openai_like": "custom_openai",
    "custom": "custom_openai",
}
"""Other spellings of a provider's name."""

_BARE = sorted(
    ((prefix, row) for row in PROVIDERS.values() for prefix in row.prefixes), key=lambda pair: -len(pair[0])
)


def provider(name: str) -> Provider | None:
    """The row with this name or alias."""
    return PROVIDERS.get(ALIASES.get(name, name))


def find(model: str) -> tuple[Provider, str] | None:
    """Whose model is that? The provider's row and the name that the provider knows, None if nobody can say.

    `anthropic/claude-3` is split at its first slash only, so `openrouter/anthropic/claude-3` keeps a slash. A name
    without a provider in front is known by how it begins; the longest beginning decides.
    """
    name, slash, rest = model.partition("/")
    row = provider(name)
    if slash and row is not None:
        return for_model(row, rest) if rest else None
    if slash:
        return None
    for prefix, owner in _BARE:
        if model.startswith(prefix):
            return owner, model
    return None


def for_model(row: Provider, model: str) -> tuple[Provider, str]:
    """The row for this model, and the model's name there: some providers have other formats for other makers' models."""
    if row.name == _VERTEX.name:
        return _at_vertex(model)
    return _at_bedrock(row, model) if row.auth == "aws" else (row, model)


_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d+")
_ARN = re.compile(rf"arn:[\w-]+:\w+:({_REGION.pattern}):")
_OWNERS = {"llama": "meta", "openai": "openai", "qwen2": "qwen", "qwen3": "qwen"}
"""Whose words an imported model understands, as LiteLLM's users write it before its ARN."""


def _at_bedrock(row: Provider, model: str) -> tuple[Provider, str]:
    # `converse/`, `invoke/`, `us-west-2/` and `llama/` may stand before the model, an ARN has its region in it. What the
    # name says of the region counts more than the environment, and less than the deployment's own `aws_region_name`.
    head, _, rest = model.partition("/")
    if rest and head in {"converse", "invoke", *_OWNERS}:
        named, model = _at_bedrock(row, rest)
        if head == "converse":
            return named, model
        options = dict(named.option_defaults)
        if head in _OWNERS:
            options["bedrock_family"] = _OWNERS[head]
        paths = row.paths | {"chat": "/model/{model}/invoke"}
        return replace(named, format="bedrock_invoke", paths=paths, option_defaults=options), model
    region = _REGION.fullmatch(head) if rest else None
    if region is not None:
        model = rest
    arn = _ARN.match(model)
    place = region[0] if region else arn[1] if arn else ""
    if place:
        options = row.option_defaults | {"aws_region_name": place}
        row = replace(row, option_env={"aws_region_name": ()}, option_defaults=options)
    if row.name == _BEDROCK_MANTLE.name and model.startswith("anthropic."):
        return replace(
            row, format="anthropic", paths={"chat": "/anthropic/v1/messages"}, usage="always"
        ), model
    return row, model


def located(row: Provider, base_url: str = "", api_version: str = "") -> tuple[Provider, str]:
    """The row as it is at this address, and the address as the row's paths continue it.

    People write `http://host:11434` and `http://host:11434/v1`, or copy the whole endpoint from a vendor's page; all
    of them work. An empty `base_url` means the row's own, an empty `api_version` the one that we choose.
    """
    base = (base_url or row.base_url).rstrip("/")
    if row.name in {"azure", "azure_ai"}:
        return _at_azure(row, base, api_version)
    if row.name in {_GEMINI.name, _VERTEX.name}:
        return row, _at_google(base)
    if row.name == "cohere":
        return row, _COHERE_ENDS.sub("", base)
    if row.name == "ollama" and (end := _OLLAMA_OPENAI.search(base)):
        row = replace(row, format="openai", paths=_ALL, rename=_MAX_TOKENS, usage="ask")
        return row, base[: end.end(1)]
    for path in row.paths.values():
        base = base.removesuffix(path)
    steps = next(iter(row.paths.values())).split("/")[1:-1]
    for length in range(len(steps), 0, -1):  # …/api, …/api/v2 and so on, as far as it was written
        if base.endswith(begun := "/" + "/".join(steps[:length])):
            return row, base.removesuffix(begun)
    return row, base


_GOOGLE_VERSION = re.compile(r"/v1(?:beta1?)?(?:/openai)?$")
_BROAD_LOCATION = re.compile(r"https://([a-z]+)-aiplatform\.googleapis\.com")


def _at_google(url: str) -> str:
    # Regions have hosts of their own, `global` has none, and `eu` and `us`, which are many regions, have another form:
    # https://cloud.google.com/vertex-ai/generative-ai/docs/learn/locations.
    base = _GOOGLE_VERSION.sub("", url)
    broad = _BROAD_LOCATION.fullmatch(base)
    if broad is None:
        return base
    if broad[1] == "global":
        return "https://aiplatform.googleapis.com"
    return f"https://aiplatform.{broad[1]}.rep.googleapis.com"


_VERSIONLESS = frozenset({"v1", "latest", "preview"})
"""API versions that mean the `…/openai/v1` address, as LiteLLM's users write it."""


def _at_azure(row: Provider, url: str, api_version: str) -> tuple[Provider, str]:
    # Five forms of address (https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle): the resource
    # alone, a whole endpoint with deployment and version in it, `…/openai/v1`, which needs no version, `…/anthropic`,
    # where Claude speaks its own format, and a serverless model's own host.
    base, _, query = url.partition("?")
    base = base.removesuffix("/chat/completions")
    version = api_version or query.partition("api-version=")[2].partition("&")[0]
    if base.endswith("/openai/v1"):
        return replace(row, paths=_EVERYTHING), base
    if version in _VERSIONLESS:
        return replace(row, paths=_EVERYTHING), base.removesuffix("/openai") + "/openai/v1"
    if row.name == "azure_ai":
        return _at_foundry(row, base, version)
    base, _, deployment = base.partition("/openai/deployments/")
    prefix = "/openai/deployments/" + (deployment.split("/")[0] or "{model}")
    version = version or AZURE_API_VERSION
    row = replace(row, paths=_under(prefix, _EVERYTHING, f"?api-version={version}"))
    if version < "2024-09":  # they answer `stream_options` with an error
        row = replace(row, usage="none", rejects=(*row.rejects, "stream_options"))
    return row, base.removesuffix("/openai")


def _at_foundry(row: Provider, base: str, version: str) -> tuple[Provider, str]:
    base, claude, _ = base.partition("/anthropic")
    if claude:
        row = replace(row, format="anthropic", paths=_ANTHROPIC.paths, auth="x-api-key", usage="always")
        return row, base + claude
    base = base.removesuffix("/models")
    if "services.ai.azure.com" not in base:
        return replace(row, paths=_CHAT_EMBEDDINGS), base
    query = f"?api-version={version or _FOUNDRY_VERSION}"
    return replace(row, paths=_under("/models", _CHAT_EMBEDDINGS, query)), base


def table() -> str:
    """The rows as a Markdown table, as `adapters/README.md` shows them."""
    lines = ["| provider | prefix | key | address | offers |", "|---|---|---|---|---|"]
    for row in PROVIDERS.values():
        names = [row.name, *(alias for alias, name in ALIASES.items() if name == row.name)]
        key = " or ".join(f"`{name}`" for name in row.env) or f"({row.auth})"
        if row.auth == "google":
            key = f"Google's own credentials or {key}"
        optional = " (optional)" if "optional_key" in row.quirks else ""
        address = f"`{row.base_url}`" if row.base_url else f"yours: `{row.base_env[0]}` or `api_base`"
        prefixes = ", ".join(f"`{name}/`" for name in names)
        offers = ", ".join(operation.replace("_", " ") for operation in row.paths)
        lines.append(f"| [{row.title}]({row.doc}) | {prefixes} | {key}{optional} | {address} | {offers} |")
    return "\n".join(lines) + "\n"
