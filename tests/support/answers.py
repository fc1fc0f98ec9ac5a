"""The parts of an answer that a client of the OpenAI library reads, streamed or not."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its header, the model that its body or each of its events names, its text."""

    adapter: str
    models: frozenset[str]
    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None


def chat(
    server: Any, text: str, *, model: str = "tempo", stream: bool = False, **options: Any
) -> Answer:
    """Ask by chat."""
    api = server.client.chat.completions
    return _ask(api, stream, model=model, messages=[{"role": "user", "content": text}], **options)


def completion(
    server: Any, text: str, *, model: str = "tempo", stream: bool = False, **options: Any
) -> Answer:
    """Ask for the completion of the prompt that the small model's chat template makes of a text."""
    return _ask(server.client.completions, stream, model=model, prompt=f"<bos> {text}", **options)


def _ask(api: Any, stream: bool, **options: Any) -> Answer:
    raw = api.with_raw_response.create(stream=stream, **options)
    parsed = raw.parse()
    parts = list(parsed) if stream else [parsed]
    choices = [choice for part in parts for choice in part.choices]
    return Answer(
        adapter=raw.headers["x-tempo-adapter"],
        models=frozenset(part.model for part in parts),
        text="".join(map(_text, choices)),
        finish_reason=next((c.finish_reason for c in choices if c.finish_reason), None),
        prompt_tokens=None if stream else parsed.usage.prompt_tokens,
    )


def _text(choice: Any) -> str:
    for name in ("delta", "message"):
        if hasattr(choice, name):
            return getattr(choice, name).content or ""
    return str(choice.text)
