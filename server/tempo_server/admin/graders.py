"""Try a grader on one response, as OpenAI's clients do.

A grader gives the verdict that it would give on a labeled line that names it. A grader of type
`verifier` is any installed verifier. The verifier runs in a process of its own.
"""

import functools
import json
import operator
import re
import time
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field, model_validator

from tempo_server.admin import references
from tempo_server.admin.route import KeyRoute, needs
from tempo_server.admin.schemas import Body, Json, Schema, Text
from tempo_server.admin.slots import LONG_WORK
from tempo_storage.errors import InvalidInputError
from tempo_storage.labeled.choice_of_verifier import choose_verifier
from tempo_storage.labeled.refusal import LineRefusedError

router = APIRouter(route_class=KeyRoute)

MAX_FILLED = 1 << 20  # characters of a text with its variables; each may stand there often
VARIABLE = re.compile(r"{{\s*((?:item|sample)(?:\.\w+)+)\s*}}")
# The errors that OpenAI's clients expect in each answer; only `other_error` can be true here.
ERRORS = (
    *("formula_parse_error", "invalid_variable_error", "other_error", "sample_parse_error"),
    *("model_grader_parse_error", "model_grader_refusal_error", "model_grader_server_error"),
    *("python_grader_runtime_error", "python_grader_server_error"),
    *("truncated_observation_error", "unresponsive_reward_error"),
)
NO_VERDICT: Json = {
    "correct": False,
    "reason": "the verifier gave no verdict: it hangs or fails on this response",
    "failed": True,
}


class Grader(Schema):
    """One of OpenAI's graders, or an installed verifier with its metadata.

    `input` and the references may hold variables, such as `{{item.answer}}`.
    """

    model_config = ConfigDict(extra="allow")  # each of OpenAI's graders has fields of its own

    type: Text
    name: Text = "grader"
    input: str = "{{sample.output_text}}"
    reference: str | list[str] = Field(default_factory=list)
    operation: Literal["eq", "ne", "like", "ilike"] | None = None
    verifier: Text = ""
    metadata: Json = Field(default_factory=dict)


class GraderRequest(Body):
    """A grader to check."""

    grader: Grader

    @model_validator(mode="before")
    @classmethod
    def check_text(cls, body: Any) -> Any:
        """Raise ValueError for half a surrogate pair or an infinity; no answer can carry it."""
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        return body


class GraderRunRequest(GraderRequest):
    """A grader to try on a response, `model_sample`; `item` has the values of its variables."""

    model_sample: str
    item: Json = Field(default_factory=dict)


class GraderRun(Schema):
    """The verdict on a response: `reward` is 1 if it is right, else 0; `tempo` says why."""

    reward: float
    metadata: Json
    sub_rewards: Json = Field(default_factory=dict)
    model_grader_token_usage_per_model: Json = Field(default_factory=dict)
    tempo: Json


@router.post("/fine_tuning/alpha/graders/validate", **needs("read", 408, 413))
def validate_grader(body: GraderRequest) -> dict[str, Json]:
    """Check that a grader can be used here, and return it."""
    _verifier(body.grader)
    return {"grader": body.grader.model_dump(exclude_unset=True)}


@router.post(
    "/fine_tuning/alpha/graders/run", dependencies=[LONG_WORK], **needs("train", 408, 413, 429)
)
def run_grader(body: GraderRunRequest) -> GraderRun:
    """Compare one response with a reference in a process of its own."""
    grader = body.grader
    values = {"item": body.item, "sample": _sample(body.model_sample)}
    answers = [grader.reference] if isinstance(grader.reference, str) else grader.reference
    question = {
        "verifier": _verifier(grader),
        "response": _filled(grader.input, values),
        "reference": [_filled(answer, values) for answer in answers],
        "metadata": {"grader": grader.model_dump(), **grader.metadata},
    }
    start = time.monotonic()
    verdict = references.verify([question])[0] or NO_VERDICT
    reward = float(verdict["correct"])
    metadata = {
        "name": grader.name,
        "type": grader.type,
        "errors": dict.fromkeys(ERRORS, False) | {"other_error": verdict["failed"]},
        "execution_time": time.monotonic() - start,
        "scores": {grader.name: reward},
    }
    return GraderRun(reward=reward, metadata=metadata, tempo=verdict)


def _verifier(grader: Grader) -> str:
    """Return the verifier that does a grader's work; raise InvalidInputError if there is none."""
    if grader.type != "verifier":
        try:
            return choose_verifier((), {"grader": grader.model_dump()})
        except LineRefusedError as error:
            raise InvalidInputError(f"grader.type: {error}") from error
    names = references.installed()
    if grader.verifier.partition(":")[0] not in names:
        raise InvalidInputError(
            f"grader.verifier: there is no {grader.verifier!r}; installed are {sorted(names)}"
        )
    return grader.verifier


def _sample(text: str) -> Json:
    """Return the values of a response; `output_json` is there if it is valid JSON."""
    try:
        return {"output_text": text, "output_json": json.loads(text)}
    except (ValueError, RecursionError):
        return {"output_text": text}


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """Return a template with its variables, such as `{{item.answer}}`, replaced by their values."""
    room = MAX_FILLED - len(template)

    def value(match: re.Match[str]) -> str:
        nonlocal room
        try:
            node: Any = functools.reduce(operator.getitem, match[1].split("."), values)
        except (KeyError, TypeError) as error:
            raise InvalidInputError(f"{match[0]} has no value; send it in `item`") from error
        text = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False)
        room -= len(text)
        if room < 0:
            raise InvalidInputError(f"more than {MAX_FILLED:,} characters in all; shorten `item`")
        return text

    return VARIABLE.sub(value, template)
