"""The trainer's prompt of a captured question is vLLM's own, token by token, on each route."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import clean_environment

pytestmark = pytest.mark.vllm

SCRIPT = Path(__file__).parents[2] / "support" / "render_routes.py"
BOS = 0  # the token that begins a sequence
END = "{% if add_generation_prompt %}[assistant]{% endif %}"
TEMPLATES = {
    # As Llama's: it writes the BOS itself, and a list of parts is joined before it.
    "text": "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}" + END,
    # As that of many models that see: it gets the list and joins its parts by nothing.
    "parts": (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{% if m.content is string %}"
        "{{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}"
        "{% endfor %}" + END
    ),
    # As Qwen3's and Mistral's: no BOS, a default system message, trimmed texts, names and thinking.
    "thinking": (
        "{% if messages[0].role != 'system' %}[system]You are helpful.{% endif %}"
        "{% for m in messages %}[{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}]"
        "{{ m.content | trim }}{% endfor %}"
        "{% if reasoning_effort is defined %}({{ reasoning_effort }}){% endif %}"
        + END
        + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    ),
}


def message(role: str, *texts: str, kind: str = "text") -> dict[str, Any]:
    parts = [{"type": kind, "text": text} for text in texts]
    return {"role": role, "content": texts[0] if len(texts) == 1 else parts}


CHATS = (
    [message("user", "Was kostet das?  ½ €\n")],
    [message("user", " use 4", "5 6")],
    [message("user", "Hi"), message("assistant", "Hello", "there"), message("user", "2+2")],
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"effort": "low"},
    {"effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
    {"effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
)
SYSTEM = (None, "Be brief. ")


def chat(messages: list[Any], system: str | None, effort: str | None) -> dict[str, Any]:
    first = [message("system", system)] if system else []
    return {"messages": [*first, *messages]} | ({"reasoning_effort": effort} if effort else {})


def response(messages: list[Any], system: str | None, effort: str | None) -> dict[str, Any]:
    items = [
        m
        if isinstance(m["content"], str)
        else message(m["role"], *(p["text"] for p in m["content"]), kind="input_text")
        for m in messages
    ]
    body: dict[str, Any] = {"input": items[0]["content"] if _is_text(items) else items}
    body |= {"instructions": system} if system else {}
    return body | ({"reasoning": {"effort": effort}} if effort else {})


def _is_text(items: list[Any]) -> bool:
    return len(items) == 1 and isinstance(items[0]["content"], str)


def anthropic(messages: list[Any], system: str | None, effort: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": messages, "max_tokens": 4}
    body |= (
        {"system": [{"type": "text", "text": text} for text in system.split("r")]} if system else {}
    )
    return body | ({"output_config": {"effort": effort}} if effort else {})


ROUTES = {
    "/v1/chat/completions": chat,
    "/v1/responses": response,
    "/v1/messages": anthropic,
}


def requests() -> dict[str, list[dict[str, Any]]]:
    """Return by route the same chats, with and without system message and template arguments."""
    cases = list(itertools.product(CHATS, SYSTEM, OPTIONS))
    return {
        path: [
            build(messages, system, options.get("effort"))
            | {k: v for k, v in options.items() if k != "effort"}
            for messages, system, options in cases
        ]
        for path, build in ROUTES.items()
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the prompts that the script prints for all requests."""
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("models"))],
        input=json.dumps({"templates": TEMPLATES, "requests": requests()}),
        env=clean_environment() | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_trainer_s_prompt_is_the_one_that_vllm_answers(
    rendered: Any, template: str, path: str
) -> None:
    prompts = rendered["prompts"][template][path]
    captured = [ids for ids in prompts if ids[1] is not None]
    assert [stock for stock, _ in captured] == [trainer for _, trainer in captured]
    # vLLM drops all but the first part of an assistant's earlier answer on /v1/responses.
    skipped = [body for body, ids in zip(requests()[path], prompts, strict=True) if ids[1] is None]
    assert all(len(body["input"]) == 3 for body in skipped)
    assert len(captured) == (20 if path == "/v1/responses" else 30)
    assert len({tuple(stock) for stock, _ in captured}) >= 4  # the chats render differently


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_text_renders_to_one_prompt_on_all_routes_and_has_one_bos(
    rendered: Any, template: str
) -> None:
    texts = [rendered["prompts"][template][path][0][0] for path in ROUTES]
    assert texts == [texts[0]] * 3
    assert texts[0].count(BOS) == (0 if template == "thinking" else 1)


def test_the_templates_join_the_parts_of_a_text_differently(rendered: Any) -> None:
    for path, bodies in requests().items():
        position = next(n for n, body in enumerate(bodies) if "5 6" in json.dumps(body))
        text, parts = (rendered["prompts"][name][path][position][1] for name in ("text", "parts"))
        assert len(text) == len(parts) + 1  # a line end


def test_a_model_without_a_chat_template_is_refused_with_the_remedy(rendered: Any) -> None:
    assert "has no chat template" in rendered["without a template"]
    assert "--chat-template FILE" in rendered["without a template"]
