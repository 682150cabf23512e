"""Companies whose chats are OpenAI's, and that need no word beyond where they are: rows of the table in `providers.py`.

Each line is the name (LiteLLM's, where it has one), the title, the base URL, the variable that holds the key and the page
that says so. `max_tokens` is what all of them understand. Who offers more than chats, or deviates, has a row over there.
"""

from __future__ import annotations

_LITELLM = "https://docs.litellm.ai/docs/providers/"
_DATA = "https://github.com/BerriAI/litellm/blob/main/litellm/llms/openai_like/providers.json"

COMPANIES: tuple[tuple[str, str, str, str, str], ...] = (
    # -- as LiteLLM knows them --
    ("abliteration", "Abliteration", "https://api.abliteration.ai/v1", "ABLITERATION_API_KEY", f"{_LITELLM}abliteration"),
    ("aiand", "ai&", "https://api.aiand.com/v1", "AIAND_API_KEY", "https://docs.aiand.com/api/chat-completions"),
    ("apertis", "Apertis", "https://api.stima.tech/v1", "STIMA_API_KEY", _DATA),
    ("charity_engine", "Charity Engine", "https://api.charityengine.services/remotejobs/v2/inference", "CHARITY_ENGINE_API_KEY", f"{_LITELLM}charity_engine"),
    ("clf_ai_gateway", "CLF AI Gateway", "https://api.clfaigateway.dev/v1", "CLF_AI_GATEWAY_API_KEY", f"{_LITELLM}clf_ai_gateway"),
    ("cognition", "Cognition", "https://api.cognition.ai/v1", "COGNITION_API_KEY", f"{_LITELLM}cognition"),
    ("coralbricks", "CoralBricks", "https://inference.coralbricks.ai/v1", "CORALBRICKS_API_KEY", f"{_LITELLM}coralbricks"),
    ("darkbloom", "Darkbloom", "https://api.darkbloom.dev/v1", "DARKBLOOM_API_KEY", f"{_LITELLM}darkbloom"),
    ("empiriolabs", "EmpirioLabs", "https://api.empiriolabs.ai/v1", "EMPIRIOLABS_API_KEY", f"{_LITELLM}empiriolabs"),
    ("empower", "Empower", "https://app.empower.dev/api/v1", "EMPOWER_API_KEY", f"{_LITELLM}empower"),
    ("galadriel", "Galadriel", "https://api.galadriel.com/v1", "GALADRIEL_API_KEY", f"{_LITELLM}galadriel"),
    ("inferenceapis", "Inference APIs", "https://api.inferenceapis.com/v1", "INFERENCEAPIS_API_KEY", f"{_LITELLM}inferenceapis"),
    ("kyma", "Kyma API", "https://kymaapi.com/v1", "KYMA_API_KEY", f"{_LITELLM}kyma"),
    ("nadir", "Nadir", "https://api.getnadir.com/v1", "NADIR_API_KEY", f"{_LITELLM}nadir"),
    ("neosantara", "Neosantara", "https://api.neosantara.xyz/v1", "NEOSANTARA_API_KEY", _DATA),
    ("openinfer", "OpenInfer", "https://api.openinfer.ai/v1", "OPENINFER_API_KEY", f"{_LITELLM}openinfer"),
    ("pinstripes", "Pinstripes", "https://pinstripes.io/v1", "PINSTRIPES_API_KEY", f"{_LITELLM}pinstripes"),
    ("prism", "Prism", "https://api.prisminference.com/v1", "PRISM_API_KEY", f"{_LITELLM}prism"),
    ("refuseless", "Refuseless", "https://api.refuseless.com/v1", "REFUSELESS_API_KEY", f"{_LITELLM}refuseless"),
    ("sail", "Sail", "https://api.sailresearch.com/v1", "SAIL_API_KEY", f"{_LITELLM}sail"),
    ("sarvam", "Sarvam AI", "https://api.sarvam.ai/v1", "SARVAM_API_KEY", f"{_LITELLM}sarvam"),
    ("scx-ai", "SCX.ai", "https://api.scx.ai/v1", "SCX_API_KEY", f"{_LITELLM}scx_ai"),
    ("tensormesh", "Tensormesh", "https://serverless.tensormesh.ai/v1", "TENSORMESH_INFERENCE_API_KEY", f"{_LITELLM}tensormesh"),
    ("zerogpu", "ZeroGPU", "https://api.zerogpu.ai/v1", "ZEROGPU_API_KEY", f"{_LITELLM}zerogpu"),
    # -- as they describe themselves --
    ("abacus", "Abacus.AI RouteLLM", "https://routellm.abacus.ai/v1", "ABACUS_API_KEY", "https://abacus.ai/help/api"),
    ("bailing", "Bailing (Ant Ling)", "https://api.tbox.cn/api/llm/v1", "BAILING_API_TOKEN", "https://alipaytbox.yuque.com/sxs0ba/ling/intro"),
    ("berget", "Berget AI", "https://api.berget.ai/v1", "BERGET_API_KEY", "https://docs.berget.ai"),
    ("cloudferro_sherlock", "CloudFerro Sherlock", "https://api-sherlock.cloudferro.com/openai/v1", "CLOUDFERRO_SHERLOCK_API_KEY", "https://docs.sherlock.cloudferro.com"),
    ("drun", "d.run", "https://chat.d.run/v1", "DRUN_API_KEY", "https://www.d.run"),
    ("evroc", "evroc", "https://models.think.evroc.com/v1", "EVROC_API_KEY", "https://docs.evroc.com/products/think/openai-compatibility.html"),
    ("fastrouter", "FastRouter", "https://go.fastrouter.ai/api/v1", "FASTROUTER_API_KEY", "https://docs.fastrouter.ai"),
    ("hunyuan", "Tencent Hunyuan", "https://api.hunyuan.cloud.tencent.com/v1", "HUNYUAN_API_KEY", "https://cloud.tencent.com/document/product/1729/111007"),
    ("iflytek", "iFlytek Spark", "https://spark-api-open.xf-yun.com/v1", "IFLYTEK_API_KEY", "https://www.xfyun.cn/doc/spark/HTTP%E8%B0%83%E7%94%A8%E6%96%87%E6%A1%A3.html"),
    ("inference_net", "Inference.net", "https://api.inference.net/v1", "INFERENCE_API_KEY", "https://docs.inference.net"),
    ("io_net", "io.net Intelligence", "https://api.intelligence.io.solutions/api/v1", "IOINTELLIGENCE_API_KEY", "https://io.net/docs/guides/intelligence/io-intelligence"),
    ("ionos", "IONOS AI Model Hub", "https://openai.inference.de-txl.ionos.com/v1", "IONOS_API_TOKEN IONOS_API_KEY", "https://docs.ionos.com/cloud/ai/ai-model-hub"),
    ("jiekou", "Jiekou.AI", "https://api.jiekou.ai/openai", "JIEKOU_API_KEY", "https://docs.jiekou.ai/docs/support/quickstart"),
    ("kilo", "Kilo Gateway", "https://api.kilo.ai/api/gateway", "KILO_API_KEY", "https://kilo.ai/docs/gateway"),
    ("llmgateway", "LLM Gateway", "https://api.llmgateway.io/v1", "LLMGATEWAY_API_KEY", "https://docs.llmgateway.io"),
    ("lucidquery", "LucidQuery", "https://api.lucidquery.com/v1", "LUCIDQUERY_API_KEY", "https://lucidquery.com/docs"),
    ("meganova", "Meganova", "https://api.meganova.ai/v1", "MEGANOVA_API_KEY", "https://docs.meganova.ai"),
    ("moark", "Moark", "https://moark.com/v1", "MOARK_API_KEY", "https://moark.com/docs/openapi/v1"),
    ("netmind", "NetMind", "https://inference-api.netmind.ai/inference-api/openai/v1", "NETMIND_API_KEY", "https://netmind-power.gitbook.io/inference-api-documentation/openai-api"),
    ("opencode", "OpenCode Zen", "https://opencode.ai/zen/v1", "OPENCODE_API_KEY", "https://opencode.ai/docs/zen"),
    ("opencode_go", "OpenCode Go", "https://opencode.ai/zen/go/v1", "OPENCODE_API_KEY", "https://opencode.ai/docs/go"),
    ("qianfan", "Baidu Qianfan", "https://qianfan.baidubce.com/v2", "QIANFAN_API_KEY", "https://cloud.baidu.com/doc/qianfan/s/Hmh4suq26"),
    ("qihang", "QiHang", "https://api.qhaigc.net/v1", "QIHANG_API_KEY", "https://www.qhaigc.net/docs"),
    ("qiniu", "Qiniu", "https://api.qnaigc.com/v1", "QINIU_API_KEY", "https://developer.qiniu.com/aitokenapi"),
    ("regolo", "Regolo AI", "https://api.regolo.ai/v1", "REGOLO_API_KEY", "https://docs.regolo.ai"),
    ("requesty", "Requesty", "https://router.requesty.ai/v1", "REQUESTY_API_KEY", "https://docs.requesty.ai"),
    ("stackit", "STACKIT AI Model Serving", "https://api.openai-compat.model-serving.eu01.onstackit.cloud/v1", "STACKIT_API_KEY", "https://docs.stackit.cloud/products/data-and-ai/ai-model-serving/basics/available-shared-models"),
    ("stepfun", "StepFun", "https://api.stepfun.com/v1", "STEPFUN_API_KEY", "https://platform.stepfun.com/docs/zh/api-reference/chat/chat-completion-create"),
    ("submodel", "submodel", "https://llm.submodel.ai/v1", "SUBMODEL_INSTAGEN_ACCESS_KEY", "https://submodel.gitbook.io/docs/instagen/api-reference"),
    ("upstage", "Upstage", "https://api.upstage.ai/v1/solar", "UPSTAGE_API_KEY", "https://developers.upstage.ai/docs/apis/chat"),
    ("vivgrid", "Vivgrid", "https://api.vivgrid.com/v1", "VIVGRID_API_KEY", "https://docs.vivgrid.com/models"),
    ("vultr", "Vultr Serverless Inference", "https://api.vultrinference.com/v1", "VULTR_API_KEY", "https://docs.vultr.com/products/compute/serverless-inference"),
    ("zai_coding", "Z.ai Coding Plan", "https://api.z.ai/api/coding/paas/v4", "ZHIPU_API_KEY", "https://docs.z.ai/devpack/overview"),
    ("zenmux", "ZenMux", "https://zenmux.ai/api/v1", "ZENMUX_API_KEY", "https://docs.zenmux.ai"),
)  # fmt: skip
