"""Try a grader on one response, as OpenAI's clients do.

`string_check` is OpenAI's grader. A grader of type `verifier` runs an installed verifier in a
process of its own. OpenAI's other graders run code or ask a model, and are refused.
"""

import functools
import json
import operator
import re
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field

from tempo_server.admin import references
from tempo_server.admin.route import READ, KeyRoute
from tempo_server.admin.schemas import Body, Json, Schema, Text
from tempo_storage.errors import InvalidInputError

router = APIRouter(route_class=KeyRoute)

VARIABLE = re.compile(r"{{\s*((?:item|sample)(?:\.\w+)+)\s*}}")
COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "like": operator.contains,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}
# The errors that OpenAI's clients expect in each answer; only `other_error` can be true here.
ERRORS = (
    *("formula_parse_error", "invalid_variable_error", "other_error", "sample_parse_error"),
    *("model_grader_parse_error", "model_grader_refusal_error", "model_grader_server_error"),
    *("python_grader_runtime_error", "python_grader_server_error"),
    *("truncated_observation_error", "unresponsive_reward_error"),
)
NO_VERDICT = {
    "correct": False,
    "reason": "the verifier gave no verdict: it hangs or fails on this response",
    "failed": True,
}


class StringCheck(Body):
    """OpenAI's comparison of two texts; both may hold variables such as `{{item.answer}}`."""

    type: Literal["string_check"]
    name: Text = "string_check"
    operation: Literal["eq", "ne", "like", "ilike"]
    input: str
    reference: str


class InstalledVerifier(Body):
    """An installed verifier, its metadata, and the accepted answers, which may hold variables."""

    type: Literal["verifier"]
    name: Text = "verifier"
    verifier: Text
    reference: list[str] = Field(default_factory=list)
    metadata: Json = Field(default_factory=dict)


class GraderRequest(Body):
    """A grader to check."""

    grader: Annotated[StringCheck | InstalledVerifier, Field(discriminator="type")]


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


@router.post("/fine_tuning/alpha/graders/validate", openapi_extra=READ)
def validate_grader(body: GraderRequest) -> dict[str, Json]:
    """Check that a grader can be used here, and return it."""
    grader = body.grader
    names = references.installed()
    if isinstance(grader, InstalledVerifier) and grader.verifier.partition(":")[0] not in names:
        raise InvalidInputError(
            f"grader.verifier: there is no {grader.verifier!r}; installed are {sorted(names)}"
        )
    return {"grader": grader.model_dump()}


@router.post("/fine_tuning/alpha/graders/run")
def run_grader(body: GraderRunRequest) -> GraderRun:
    """Compare one response with a reference; this may start a process."""
    validate_grader(body)
    grader = body.grader
    start = time.monotonic()
    verdict = _verdict(body)
    reward = float(verdict["correct"])
    metadata = {
        "name": grader.name,
        "type": grader.type,
        "errors": dict.fromkeys(ERRORS, False) | {"other_error": verdict.get("failed", False)},
        "execution_time": time.monotonic() - start,
        "scores": {grader.name: reward},
    }
    return GraderRun(reward=reward, metadata=metadata, tempo=verdict)


def _verdict(body: GraderRunRequest) -> Json:
    grader = body.grader
    values = {"item": body.item, "sample": _sample(body.model_sample)}
    if isinstance(grader, StringCheck):
        text = _filled(grader.input, values)
        reference = _filled(grader.reference, values)
        return {"correct": COMPARISONS[grader.operation](text, reference), "extracted": text}
    item = {
        "verifier": grader.verifier,
        "response": body.model_sample,
        "reference": [_filled(answer, values) for answer in grader.reference],
        "metadata": grader.metadata,
    }
    return references.verify([item])[0] or NO_VERDICT


def _sample(text: str) -> Json:
    """Return the values of a response; `output_json` is there if it is valid JSON."""
    try:
        return {"output_text": text, "output_json": json.loads(text)}
    except (ValueError, RecursionError):
        return {"output_text": text}


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """Return a template with its variables, such as `{{item.answer}}`, replaced by their values."""

    def value(match: re.Match[str]) -> str:
        try:
            node: Any = functools.reduce(operator.getitem, match[1].split("."), values)
        except (KeyError, TypeError) as error:
            raise InvalidInputError(f"{match[0]} has no value; send it in `item`") from error
        return node if isinstance(node, str) else json.dumps(node, ensure_ascii=False)

    return VARIABLE.sub(value, template)
