"""Opt-out: the ways in which a request, or the operator for a key, forbids to keep a question.

    X-Tempo-Opt-Out: 1        and any other value but 0
    "store": false            and any other value that is not a clear yes
    TEMPO_OPT_OUT_KEYS        the ids of users' keys; `Capture.keep` looks for those of tenants

One of them is enough, also where another says the opposite.
"""

import json
from collections.abc import Set
from typing import Any

from fastapi import Request

from tempo_server.capture.tenants import id_of

HEADER = "x-tempo-opt-out"
KEY_HEADERS = ("authorization", "x-api-key")  # OpenAI's and Anthropic's
TRUE_VALUES = ("true", "t", "1", "1.0", "on", "yes", "y")  # those that pydantic reads as true


async def is_opted_out(raw_request: Request, key_ids: Set[str]) -> bool:
    """Tell whether the question of a request must not be kept; never is one by these keys.

    Call this before vLLM answers. The parsed request cannot tell: Anthropic's form has no `store`,
    and vLLM itself sets that of a response to false. FastAPI has read the body and keeps it, so
    this neither waits for the network nor takes the body from vLLM.
    """
    headers = raw_request.headers
    if any(value.strip() != "0" for value in headers.getlist(HEADER)):
        return True
    if key_ids and not key_ids.isdisjoint(_key_ids(raw_request)):
        return True
    try:
        parsed = await raw_request.json()
        stores = _stores(parsed, await raw_request.body())
    except (ValueError, RecursionError):  # nobody knows what it forbids
        return True
    return any(
        store is not None and str(store).strip().lower() not in TRUE_VALUES for store in stores
    )


def _key_ids(raw_request: Request) -> set[str]:
    """Return the ids of every key that a request sends, in whichever form it sends it."""
    ids = set()
    for name in KEY_HEADERS:
        for value in raw_request.headers.getlist(name):
            key = value.split(" ")[-1]
            ids |= {id_of(form) for form in (value, key, f"Bearer {key}")}
    return ids


def _stores(parsed: Any, body: bytes) -> list[Any]:
    """Return each value of `store` in a body: a name may stand there twice."""
    if not isinstance(parsed, dict) or "store" not in parsed:
        return []
    pairs = json.loads(body, object_pairs_hook=list)
    return [value for name, value in pairs if name == "store"]
