"""A server starts only with a model whose chats /tokenize renders as users' routes do."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.renderers.chat_utils import ChatTemplateResolutionError

from tempo_server.capture import rendering
from tempo_server.errors import StartError


def state(users: list[int], trainer: list[int]) -> Any:
    """Return the state of a server that renders chats to these token ids."""

    async def render_chat(request: Any) -> Any:
        if not users:
            raise ChatTemplateResolutionError("default chat template is no longer allowed")
        return [], [{"prompt_token_ids": users}]

    async def create_tokenize(request: Any, raw_request: Any) -> Any:
        return SimpleNamespace(tokens=trainer)

    return SimpleNamespace(
        online_renderer=SimpleNamespace(render_chat=render_chat),
        serving_tokenization=SimpleNamespace(create_tokenize=create_tokenize),
    )


def test_a_model_that_renders_alike_on_both_routes_may_start() -> None:
    asyncio.run(rendering.check(state([1, 2], [1, 2])))


@pytest.mark.parametrize(
    ("users", "trainer", "message"),
    [
        ([], [], "no chat template.*add --chat-template FILE"),
        ([1, 2], [1, 1, 2], "by other rules than /tokenize.*serve another model"),
    ],
)
def test_another_model_is_refused_with_the_remedy(
    users: list[int], trainer: list[int], message: str
) -> None:
    with pytest.raises(StartError, match=message):
        asyncio.run(rendering.check(state(users, trainer)))


def test_a_response_is_tokenised_without_a_second_bos(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = ResponsesRequest.build_tok_params
    monkeypatch.setattr(ResponsesRequest, "build_tok_params", stock)  # restores it afterwards
    rendering.add_no_second_bos()
    request = ResponsesRequest(input="Hi", max_output_tokens=7)
    params = request.build_tok_params(SimpleNamespace(max_model_len=64))
    assert params.add_special_tokens is False
    assert (params.max_total_tokens, params.max_output_tokens) == (64, 7)
