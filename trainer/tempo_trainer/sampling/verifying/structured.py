"""The verifiers `json_equal`, `regex` and `string_check`."""

import json
import re
from typing import Any

from tempo_storage.answers.final_answer import final_answer, visible
from tempo_storage.answers.plain_text import plain
from tempo_trainer.sampling.verifying.contract import Metadata, References, Verdict

MAX_JSON_CHARACTERS = 32_768
OPERATIONS = ("eq", "ne", "like", "ilike")
FENCED = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)```", re.DOTALL)


class JsonEqual:
    """The answer is JSON with the value of a reference; order of keys and white space are free."""

    name = "json_equal"

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference is not JSON."""
        faulty = [one for one in reference if _parsed(one) is None]
        return f"{faulty[0]!r} is not JSON" if faulty else None

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the JSON of the response: the whole, the last fenced block, or the answer."""
        value = _json_of(response)
        if value is None:
            return Verdict(False, None, "no JSON")
        accepted = [other[0] for one in reference if (other := _parsed(one)) is not None]
        correct = any(_is_equal(value[0], other) for other in accepted)
        return Verdict(correct, json.dumps(value[0], sort_keys=True, ensure_ascii=False))


class Regex:
    """The whole final answer matches a reference, which is a regular expression of Python."""

    name = "regex"

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference does not compile, or matches an empty answer."""
        for one in reference:
            try:
                pattern = re.compile(one)
            except (re.error, OverflowError, RecursionError) as error:
                return f"{one!r} is no regular expression: {error}"
            if pattern.fullmatch(""):
                return f"{one!r} matches an empty answer"
        return None

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Match the final answer as it stands, and without its markup."""
        answer = final_answer(response).text
        texts = (answer, plain(answer))
        correct = bool(answer) and any(
            re.fullmatch(pattern, text) for pattern in reference for text in texts
        )
        return Verdict(correct, answer or None)


class StringCheck:
    """OpenAI's grader of this name; `metadata["grader"]` or the metadata has its operation.

    `eq` and `ne` compare the response, or its final answer, with the references; `like` and `ilike`
    look for a reference in the response, `ilike` in any case.
    """

    name = "string_check"

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference is empty."""
        return self.check_question(reference, {})

    def check_question(self, reference: References, metadata: Metadata) -> str | None:
        """Return an error if a reference is empty, or the operation is unknown."""
        if not all(one.strip() for one in reference):
            return "an empty reference matches nothing"
        operation = _operation(metadata)
        if operation in OPERATIONS:
            return None
        field = "grader" if "grader" in metadata else "metadata"
        return f"{field}.operation is {operation!r}; give eq, ne, like or ilike"

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Apply the operation."""
        text = visible(response)
        answer = final_answer(response).text
        is_same = any(one.strip() in (text, answer) for one in reference)
        correct = {
            "eq": is_same,
            "ne": bool(text and reference) and not is_same,
            "like": any(one in text for one in reference),
            "ilike": any(one.casefold() in text.casefold() for one in reference),
        }
        return Verdict(correct[_operation(metadata)], answer or None)


def _operation(metadata: Metadata) -> str:
    grader = metadata.get("grader")
    return str((grader if isinstance(grader, dict) else metadata).get("operation", "eq"))


def _json_of(response: str) -> tuple[Any] | None:
    text = visible(response)
    fenced = FENCED.findall(text)
    candidates = [text, *fenced[-1:], final_answer(response).text]
    start = min((i for i in (text.find("{"), text.find("[")) if i >= 0), default=-1)
    end = max(text.rfind("}"), text.rfind("]"))
    if 0 <= start < end:
        candidates.append(text[start : end + 1])
    return next((v for one in candidates if (v := _parsed(one)) is not None), None)


def _parsed(text: str) -> tuple[Any] | None:
    """Return the value in a tuple, since JSON's null is a value, too; None for other text."""
    if len(text) > MAX_JSON_CHARACTERS:
        return None
    try:
        return (json.loads(text),)
    except (ValueError, RecursionError):
        return None


def _is_equal(left: Any, right: Any) -> bool:
    """Compare JSON values; unlike Python, true is not 1. 1.0 is 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        same_keys = left.keys() == right.keys()
        return same_keys and all(_is_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_is_equal, left, right))
    return bool(left == right)
