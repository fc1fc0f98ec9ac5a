"""Render requests by vLLM's own routes, and the captured questions as the trainer does.

    python tests/support/render_routes.py DIRECTORY < requests.json

The input has chat templates by name and lists of requests by path:
`{"templates": {…}, "requests": {…}}`. The output has by template and path one
`[ids of vLLM, ids of the trainer]` for each request; the latter are null for a request that is not
captured. vLLM's render server runs in this process without an engine. It tokenises by bytes, and
its tokeniser adds a BOS, as that of Llama does.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tempo_server.commands.vllm_serve import answer_for_vllm

answer_for_vllm()  # before vLLM is imported
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"

import httpx  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402
from transformers import LlamaConfig, PreTrainedTokenizerFast  # noqa: E402
from vllm import AsyncEngineArgs  # noqa: E402
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest  # noqa: E402
from vllm.entrypoints.launchers.app import build_app  # noqa: E402
from vllm.entrypoints.launchers.cli_args import make_arg_parser  # noqa: E402
from vllm.entrypoints.launchers.render.app_state import init_render_app_state  # noqa: E402
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest  # noqa: E402
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402

from tempo_server.capture import question, rendering  # noqa: E402
from tempo_server.errors import StartError  # noqa: E402
from tempo_trainer.sampling.sampler import tokenize_body  # noqa: E402

ROUTES: dict[str, tuple[Any, Any]] = {
    "/v1/chat/completions": (ChatCompletionRequest, question.from_chat),
    "/v1/responses": (ResponsesRequest, question.from_response),
    "/v1/messages": (AnthropicMessagesRequest, question.from_anthropic),
}
BOS = "<s>"
CONFIG = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


def write_model(directory: Path, template: str | None) -> None:
    """Write a model's configuration and its tokenizer; the renderer needs no weights."""
    alphabet = [BOS, "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({text: number for number, text in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with_bos = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    tokenizer.post_processor = with_bos
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token="</s>")
    fast.chat_template = template
    fast.save_pretrained(directory)
    config = LlamaConfig(**CONFIG)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(directory)


async def start(directory: Path, template: str | None) -> Any:
    """Return vLLM's app for the routes that render, for a model with this chat template."""
    write_model(directory, template)
    flags = ["--model", str(directory), "--served-model-name", "tempo"]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(flags)
    app = build_app(args, ("render",))
    await init_render_app_state(
        AsyncEngineArgs.from_cli_args(args).create_engine_config(), app.state, args
    )
    return app


async def render(app: Any, path: str, body: dict[str, Any]) -> list[list[int] | None]:
    """Return the prompt that vLLM answers on a route, and the one that the trainer gets."""
    request_class, read_question = ROUTES[path]
    body = {"model": "tempo", **body}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://vllm") as http:
        stock = await http.post(f"{path}/render", json=body)
        assert stock.status_code == 200, stock.text
        captured = read_question(request_class.model_validate(body))
        if captured is None:
            return [stock.json()["token_ids"], None]
        row = SimpleNamespace(
            messages=captured.messages, chat_template_kwargs=captured.template_arguments
        )
        headers = {"content-type": "application/json"}
        reply = await http.post("/tokenize", content=tokenize_body(row), headers=headers)
        assert reply.status_code == 200, reply.text
        return [stock.json()["token_ids"], reply.json()["tokens"]]


async def main(directory: Path) -> None:
    """Render all requests with all templates; without a template, print why it is refused."""
    rendering.add_no_second_bos()
    cases = json.load(sys.stdin)
    prompts: dict[str, Any] = {}
    for name, template in cases["templates"].items():
        app = await start(directory / name, template)
        await rendering.check(app.state)
        prompts[name] = {
            path: [await render(app, path, body) for body in bodies]
            for path, bodies in cases["requests"].items()
        }
    refusal = None
    try:
        await rendering.check((await start(directory / "none", None)).state)
    except StartError as error:
        refusal = str(error)
    print(json.dumps({"prompts": prompts, "without a template": refusal}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
