"""Lines of labeled files: those that are refused, with the code of the error, and accepted ones."""

import json
from collections.abc import Collection
from typing import Any

from ledgers import user

from tempo_storage.labeled.file import parse
from tempo_storage.labeled.line import Example
from tempo_storage.labeled.refusal import LineRefusedError, Note

VERIFIERS = ("choice", "exact", "json_equal", "math", "numeric", "words")
GOOD = {"messages": user("6*7?"), "reference_answer": "42"}


def line(**fields: Any) -> bytes:
    """Return a good line with other fields."""
    return json.dumps(GOOD | fields).encode() + b"\n"


def read_line(
    row: dict[str, Any] | bytes,
    *,
    verifiers: Collection[str] = VERIFIERS,
    needs_reference: bool = True,
) -> tuple[Example, list[Note]]:
    """Return the example and the notes of a file of one line; raise LineRefusedError."""
    content = row if isinstance(row, bytes) else json.dumps(row).encode()
    file = parse(content, verifiers, needs_reference=needs_reference)
    for error in file.errors:
        raise LineRefusedError(error.message, code=error.code, param=error.param, value=error.value)
    (example,) = file.examples
    return example, [note for _, note in file.warnings]


def nested(depth: int) -> bytes:
    """Return a line whose messages are lists in lists."""
    return b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"


REFUSED: dict[str, tuple[bytes, str]] = {
    "utf-16": ('{"a": 1}'.encode("utf-16"), "invalid_utf8"),
    "utf-16 without mark": ('{"a": 1}'.encode("utf-16-le"), "invalid_json"),
    "latin-1": ('{"question": "é"}'.encode("latin-1"), "invalid_utf8"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "invalid_utf8"),
    "zip": (b"PK\x03\x04", "invalid_json"),
    "csv without a header": (b"6*7,42", "invalid_json"),
    "html": (b"<html></html>", "invalid_json"),
    "an array": (b"[1, 2]", "invalid_json"),
    "a number": (b"7", "invalid_json"),
    "two objects without a question": (b"{} {}", "missing_messages"),
    "text after an object": (line().strip() + b" and so on", "invalid_json"),
    "a huge integer": (b'{"question": "q", "answer": ' + b"9" * 5000 + b"}", "invalid_number"),
    "many fields": (line(**{f"f{n}": n for n in range(300)}), "too_many_fields"),
    "NaN": (b'{"question": "q", "answer": NaN}', "invalid_number"),
    "infinity": (b'{"question": "q", "answer": -Infinity}', "invalid_number"),
    "a float that overflows": (b'{"question": "q", "answer": 1e999}', "invalid_number"),
    "a key twice": (b'{"question": "q", "answer": 1, "answer": 2}', "duplicate_key"),
    "a key twice inside": (b'{"metadata": {"a": 1, "a": 2}}', "duplicate_key"),
    "a lone surrogate": (b'{"question": "\\ud800", "answer": 1}', "lone_surrogate"),
    "a lone surrogate as key": (b'{"\\udfff": 1}', "lone_surrogate"),
    "NUL": (b'{"question": "a\\u0000b", "answer": 1}', "nul_character"),
    "deep": (nested(20), "too_deep"),
    "very deep": (nested(100_000), "too_deep"),
    "a megabyte": (line(metadata={"x": "y" * (1 << 20)}), "line_too_long"),
    "no question": (b'{"answer": 1}', "missing_messages"),
    "no reference": (b'{"question": "q"}', "missing_reference"),
    "a null reference": (b'{"question": "q", "answer": null}', "missing_reference"),
    "no messages": (line(messages=[]), "invalid_messages"),
    "too many messages": (line(messages=user("q") * 33), "invalid_messages"),
    "a message that is text": (line(messages=["q"]), "invalid_messages"),
    "a message with a name": (line(messages=[user("q")[0] | {"name": "eve"}]), "invalid_messages"),
    "a tool's message": (line(messages=[{"role": "tool", "content": "x"}]), "invalid_messages"),
    "a system message at the end": (
        line(messages=[*user("q"), {"role": "system", "content": "Solve."}]),
        "invalid_messages",
    ),
    "a role that is a list": (line(messages=[{"role": [], "content": "x"}]), "invalid_messages"),
    "an image": (line(messages=user([{"type": "image_url"}])), "invalid_messages"),
    "an assistant's message alone": (
        line(messages=[{"role": "assistant", "content": "a"}]),
        "invalid_messages",
    ),
    "a call of a tool": (
        line(messages=[*user("q"), {"role": "assistant", "content": "a", "tool_calls": [{}]}]),
        "invalid_messages",
    ),
    "a picture beside the question": (line(image="x.png"), "unusable_field"),
    "tools beside the question": (line(tools=[{"type": "function"}]), "unusable_field"),
    "a context that is an object": (
        b'{"question": "q", "answer": "a", "context": {"title": ["t"]}}',
        "invalid_context",
    ),
    "a proof": (b'{"problem": "Prove it.", "answer": "proof"}', "no_answer"),
    "a solution without its answer": (
        b'{"problem": "q", "solution": "We add. The sum is seven."}',
        "no_final_answer",
    ),
    "one option": (b'{"question": "q", "options": ["1"], "answer": "A"}', "invalid_options"),
    "an answer that is no option": (
        b'{"question": "q", "options": ["1", "2"], "answer": "C"}',
        "invalid_reference",
    ),
    "an answer that two options may mean": (
        b'{"question": "q", "options": ["B", "A"], "answer": "A"}',
        "invalid_reference",
    ),
    "a judgement of a response": (
        b'{"prompt": "q", "completion": "a", "label": true}',
        "invalid_reference",
    ),
    "a list of all examples": (b'{"data": [{"question": "q", "answer": "a"}]}', "missing_messages"),
    "an empty question": (line(messages=user("  ")), "invalid_messages"),
    "a long question": (line(messages=user("x" * 32_769)), "invalid_messages"),
    "an empty reference": (line(reference_answer=" "), "invalid_reference"),
    "a long reference": (line(reference_answer="1" * 2049), "invalid_reference"),
    "a truth value in a list": (line(reference_answer=[True]), "invalid_reference"),
    "an object in a list": (line(reference_answer=[{"value": "7"}]), "invalid_reference"),
    "no accepted answer": (line(reference_answer=[]), "invalid_reference"),
    "a list in a list": (line(reference_answer=[["42"]]), "invalid_reference"),
    "an unknown verifier": (line(verifier="judge"), "unknown_verifier"),
    "a verifier that is a list": (line(verifier=["math"]), "unknown_verifier"),
    "metadata that is text": (line(metadata="x"), "invalid_metadata"),
    "a system prompt that is a list": (line(system=["Think."]), "invalid_system"),
    "a long system prompt": (line(system="x" * 32_769), "invalid_system"),
    "two system messages": (
        line(system="Think.", messages=[{"role": "system", "content": "Solve."}, *user("q")]),
        "invalid_system",
    ),
    "template arguments that are text": (
        line(chat_template_kwargs="x"),
        "invalid_chat_template_kwargs",
    ),
    "too many template arguments": (
        line(chat_template_kwargs={f"a{n}": n for n in range(33)}),
        "invalid_chat_template_kwargs",
    ),
    "a list as a template argument": (
        line(chat_template_kwargs={"tags": ["x"]}),
        "invalid_chat_template_kwargs",
    ),
    "long template arguments": (
        line(chat_template_kwargs={"style": "é" * 2_048}),
        "invalid_chat_template_kwargs",
    ),
    "an argument of the renderer": (
        line(chat_template_kwargs={"truncation": True}),
        "invalid_chat_template_kwargs",
    ),
    "NUL in a template argument": (line(chat_template_kwargs={"x": "\0"}), "nul_character"),
}

GSM8K = {"question": "How many clips?", "answer": "48/2 = <<48/2=24>>24.\n48+24 = 72.\n#### 72"}
MATH = {
    "problem": "What is $1/2+1/4$?",
    "level": "Level 2",
    "type": "Algebra",
    "solution": r"As $\frac24+\frac14$, it is $\boxed{\frac{3}{4}}$.",
}
# Each with its reference and its verifier.
WORKED: tuple[tuple[dict[str, Any], str, str], ...] = (
    (GSM8K, "72", "numeric"),
    (GSM8K | {"answer": "so\n#### -1,234.5"}, "-1,234.5", "numeric"),
    (GSM8K | {"answer": "so\n####7"}, "7", "numeric"),
    (GSM8K | {"answer": "so\n#### x + 1"}, "x + 1", "math"),
    (GSM8K | {"verifier": "exact"}, "72", "exact"),
    (GSM8K | {"answer": "#### Step 1\nadd\n#### 7"}, "7", "numeric"),
    (GSM8K | {"answer": "<answer>Paris</answer>"}, "Paris", "words"),
    (MATH, r"\frac{3}{4}", "numeric"),
    (MATH | {"solution": r"It is $\boxed{x^2}$."}, "x^2", "math"),
    (MATH | {"answer": "0.75"}, "0.75", "numeric"),  # MATH-500
    (MATH | {"answer": ""}, r"\frac{3}{4}", "numeric"),
    (MATH | {"solution": "x" * 9000 + r"\boxed{7}"}, "7", "numeric"),
    (MATH | {"solution": r"\boxed{7"}, r"\boxed{7", "math"),
    ({"question": "q", "reference_answer": "a #### b"}, "a #### b", "words"),
)
# Other data sets and odd values that are accepted.
ACCEPTED: dict[str, dict[str, Any]] = {
    "a chat": {"prompt": [{"role": "system", "content": "Think."}, *user("q")], "solution": "$7$"},
    "a label": {"question": "q", "label": 1, "answerKey": "B"},
    "options": {"question": "q", "options": ["1", "7"], "answer": "B", "verifier": "choice"},
    "several references": {"question": "q", "answer": ["7", "7.0", 7]},
    "a list of solutions": {"question": "q", "solution": ["We add."], "final_answer": ["7"]},
    "a float": {"question": "q", "answer": 1e-7},
    "a negative zero": {"question": "q", "answer": -0.0},
    "a context beside the question": {"context": "7 cats.", "question": "q", "answer": "7"},
    "metadata and an id": {"question": "q", "answer": "7", "metadata": {"tolerance": 1}, "id": 3},
    "null metadata": {"question": "q", "answer": "7", "metadata": None, "id": None},
    "a null name before another": {"messages": None, "question": "q", "label": None, "answer": "7"},
    "an answer in tags": {"problem": "q", "answer": "<answer>7</answer>"},
    "a system prompt": {"question": "q", "answer": "7", "system": "Think."},
    "an answer as an object": {"prompt": "q", "reward_model": {"ground_truth": "7"}},
    "a truth value": {"question": "q", "answer": True},
    "a supervised chat": {"messages": [*user("q"), {"role": "assistant", "content": "7"}]},
    "template arguments": {
        "question": "q",
        "answer": "7",
        "chat_template_kwargs": {"enable_thinking": False, "style": "é" * 2_000, "none": None},
    },
    "full-width text": {"question": " ６*７？ ", "answer": "４２"},
}
