"""Try a grader on one response, as OpenAI's clients do.

`string_check` is OpenAI's grader. A grader of type `verifier` runs an installed verifier in a
process of its own. The other graders of OpenAI are refused, each with the reason.
"""

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from tempo_server.admin import references
from tempo_server.admin.route import READ, CurrentContext, KeyRoute
from tempo_server.admin.schemas import (
    Grader,
    GraderRequest,
    GraderRun,
    GraderRunRequest,
    RefusedGrader,
    StringCheckGrader,
    ValidGrader,
)
from tempo_storage.errors import InvalidInputError

router = APIRouter(route_class=KeyRoute)

VARIABLE = re.compile(r"{{\s*((?:item|sample)(?:\.\w+)+)\s*}}")
REFUSALS = {
    "python": "the server runs no code of a request; install a verifier of your own",
    "text_similarity": "a verdict is right or wrong, not a degree; use string_check or a verifier",
    "multi": "a verdict comes from one grader; name one",
}
NO_VERDICT = {
    "correct": False,
    "extracted": None,
    "reason": "the verifier gave no verdict: it hangs or fails on this response",
    "failed": True,
}
NO_MODEL = "verdicts need no other model; use string_check or a verifier"


@router.post("/fine_tuning/alpha/graders/validate", openapi_extra=READ)
def validate_grader(context: CurrentContext, body: GraderRequest) -> ValidGrader:
    """Check that a grader can be used here."""
    _check(body.grader)
    return ValidGrader(grader=body.grader)


@router.post("/fine_tuning/alpha/graders/run", openapi_extra=READ)
def run_grader(context: CurrentContext, body: GraderRunRequest) -> GraderRun:
    """Compare one response with a reference."""
    grader = body.grader
    _check(grader)
    values = {"item": body.item, "sample": _sample(body.model_sample)}
    start = time.monotonic()
    verdict: Mapping[str, Any]
    if isinstance(grader, StringCheckGrader):
        text = _filled(grader.input, values)
        is_right = _string_check(grader.operation, text, _filled(grader.reference, values))
        verdict = {"correct": is_right, "extracted": text, "reason": "", "failed": False}
    else:
        assert not isinstance(grader, RefusedGrader)
        item = {
            "verifier": grader.verifier,
            "response": body.model_sample,
            "reference": [_filled(answer, values) for answer in grader.reference],
            "metadata": grader.metadata,
        }
        verdict = references.verify([item])[0] or NO_VERDICT
    return GraderRun.of(grader, verdict, seconds=time.monotonic() - start)


def _check(grader: Grader) -> None:
    """Raise InvalidInputError for a grader that cannot be used here."""
    if isinstance(grader, RefusedGrader):
        reason = REFUSALS.get(grader.type, NO_MODEL)
        raise InvalidInputError(f"grader.type: {grader.type!r} is not used here: {reason}")
    if not isinstance(grader, StringCheckGrader):
        names = references.installed()
        if grader.verifier.partition(":")[0] not in names:
            raise InvalidInputError(
                f"grader.verifier: there is no {grader.verifier!r}; installed are {sorted(names)}"
            )


def _string_check(operation: str, text: str, reference: str) -> bool:
    match operation:
        case "eq":
            return text == reference
        case "ne":
            return text != reference
        case "like":
            return reference in text
    return reference.casefold() in text.casefold()


def _sample(text: str) -> dict[str, Any]:
    """Return the values of a response; `output_json` is there if it is valid JSON."""
    try:
        return {"output_text": text, "output_json": json.loads(text)}
    except ValueError:
        return {"output_text": text}


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """Return a template with its variables, such as `{{item.answer}}`, replaced by their values."""

    def value(match: re.Match[str]) -> str:
        node: Any = values
        for name in match[1].split("."):
            if not isinstance(node, Mapping) or name not in node:
                raise InvalidInputError(f"{match[0]} has no value; send it in `item`")
            node = node[name]
        return node if isinstance(node, str) else json.dumps(node, ensure_ascii=False)

    return VARIABLE.sub(value, template)
