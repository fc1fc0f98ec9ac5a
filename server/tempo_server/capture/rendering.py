"""Let vLLM render a chat to the same prompt on each route that is captured.

The trainer gets the prompt of a question from /tokenize. So each route must render a question as
/tokenize does.
"""

import dataclasses
import functools
from typing import Any

from tempo_server.errors import StartError

MESSAGES = [{"role": "user", "content": "Hi"}]


def add_no_second_bos() -> None:
    """Let /v1/responses tokenise a rendered chat as the other routes do.

    A chat template writes the first special token (BOS) itself. On this route vLLM 0.32 lets the
    tokeniser write it once more (vllm-project/vllm#38187), so that the model answers another prompt
    than the one that it was trained on.
    """
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    stock = ResponsesRequest.build_tok_params

    @functools.wraps(stock)
    def build_tok_params(self: Any, model_config: Any) -> Any:
        return dataclasses.replace(stock(self, model_config), add_special_tokens=False)

    ResponsesRequest.build_tok_params = build_tok_params


async def check(state: Any) -> None:
    """Raise StartError for a model of which the trainer could not render the users' chats."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest
    from vllm.renderers.chat_utils import ChatTemplateResolutionError

    request = ChatCompletionRequest(messages=MESSAGES)
    try:
        _, inputs = await state.online_renderer.render_chat(request)
    except ChatTemplateResolutionError as error:
        raise StartError(
            "the model has no chat template, so vLLM answers no chat and nothing can be learned; "
            "add --chat-template FILE, or serve the model's chat variant"
        ) from error
    tokenize = state.serving_tokenization.create_tokenize
    tokens = (await tokenize(TokenizeChatRequest(messages=MESSAGES), None)).tokens
    if list(inputs[0]["prompt_token_ids"]) != tokens:
        raise StartError(
            "vLLM renders the chats of this model by other rules than /tokenize, so the trainer "
            "would learn from prompts that no user asks; serve another model"
        )
