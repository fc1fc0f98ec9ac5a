"""A fake admin API: a transport for the SDK that answers as a test says, and `tempo` on it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import httpx
from typer.testing import CliRunner, Result

from tempo_client import Tempo
from tempo_client.cli.commands import app

JOBS = "/tempo/v1/fine_tuning/jobs"
STATUS = {
    "model": "tiny",
    "serving_adapter": "tempo-v3",
    "previous_adapter": "tempo-v0",
    "phase": "m_step",
    "iteration": 4,
    "questions": {"captured": 7, "distinct": 5, "streamed": None, "new_counter": 1},
    "labeled": {"train": 12, "held_out": 12, "missing": 40, "smallest_gain": 0.231},
    "users_decoding": {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
    "warnings": ["--max-loras is 1"],
    "last_error": {
        "id": "ftevent-1",
        "created_at": 1,
        "level": "info",
        "type": "t",
        "message": "[E] done",
    },
}
ADAPTER = {
    "id": "tempo-v3",
    "version": 3,
    "status": "serving",
    "created_at": 1,
    "report": {"reason": "better by 0.04"},
}
EVENT = STATUS["last_error"]

Handler: TypeAlias = Callable[[httpx.Request], httpx.Response]


def job(status: str = "succeeded", mode: str = "round", **details: Any) -> dict[str, Any]:
    """Return a job as the server sends it; its own fields lie under `tempo`."""
    body = {"id": "ftjob-1", "status": status, "created_at": 1, "error": details.pop("error", None)}
    return body | {"tempo": {"mode": mode} | details}


def page(*items: Any) -> dict[str, Any]:
    """Return a list, as the server sends it, that has no further page."""
    return {"data": items, "has_more": False}


def handler(answers: Mapping[str, Any]) -> Handler:
    """Return a handler that answers each request with the answer to its method and path.

    An answer is a body, a pair of status and body, an exception to raise, a function of the request
    that returns one of these, or a list of them for one request after the other.
    """

    def handle(request: httpx.Request) -> httpx.Response:
        answer = answers[f"{request.method} {request.url.path}"]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        return httpx.Response(status, json=body)

    return handle


def client(answers: Handler | Mapping[str, Any], **options: Any) -> Tempo:
    """Return a client of a server that answers so."""
    handle = handler(answers) if isinstance(answers, Mapping) else answers
    transport = httpx.MockTransport(handle)
    return Tempo("http://tempo", api_key="tk_x", transport=transport, **options)


def run(*arguments: str, answers: Mapping[str, Any] | None = None) -> Result:
    """Run `tempo` with these arguments on a server that answers so, and with STATUS."""
    routes = {"GET /tempo/v1/status": STATUS, **(answers or {})}
    return CliRunner().invoke(app, arguments, obj=lambda: client(routes, max_retries=0))
