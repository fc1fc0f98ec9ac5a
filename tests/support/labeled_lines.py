"""Lines of labeled files: those that are refused, with the code of the error, and accepted ones."""

import json
from typing import Any

from ledgers import user

GOOD = {"messages": user("6*7?"), "reference_answer": "42"}


def line(**fields: Any) -> bytes:
    """Return a good line with other fields."""
    return json.dumps(GOOD | fields).encode() + b"\n"


def nested(depth: int) -> bytes:
    """Return a line whose messages are lists in lists."""
    return b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"


REFUSED: dict[str, tuple[bytes, str]] = {
    "utf-16": ('{"a": 1}'.encode("utf-16"), "invalid_utf8"),
    "utf-16 without mark": ('{"a": 1}'.encode("utf-16-le"), "invalid_json"),
    "latin-1": ('{"question": "é"}'.encode("latin-1"), "invalid_utf8"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "invalid_utf8"),
    "zip": (b"PK\x03\x04", "invalid_json"),
    "csv": (b"question,answer", "invalid_json"),
    "html": (b"<html></html>", "invalid_json"),
    "an array": (b"[1, 2]", "invalid_json"),
    "a number": (b"7", "invalid_json"),
    "two objects": (b"{} {}", "invalid_json"),
    "a trailing comma": (b'{"question": "q", "answer": "7"},', "invalid_json"),
    "old mac line ends": (line().strip() + b"\r" + line().strip(), "invalid_json"),
    "a huge integer": (b'{"question": "q", "answer": ' + b"9" * 5000 + b"}", "invalid_json"),
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
    "a reference inside an object": (
        b'{"prompt": "q", "reward_model": {"ground_truth": "7"}}',
        "missing_reference",
    ),
    "no messages": (line(messages=[]), "invalid_messages"),
    "too many messages": (line(messages=user("q") * 33), "invalid_messages"),
    "a message that is text": (line(messages=["q"]), "invalid_messages"),
    "a message with a name": (line(messages=[user("q")[0] | {"name": "eve"}]), "invalid_messages"),
    "a tool's message": (line(messages=[{"role": "tool", "content": "x"}]), "invalid_messages"),
    "a developer's message": (
        line(messages=[{"role": "developer", "content": "Solve."}, *user("q")]),
        "invalid_messages",
    ),
    "a role that is a list": (line(messages=[{"role": [], "content": "x"}]), "invalid_messages"),
    "an image": (line(messages=user([{"type": "image_url"}])), "invalid_messages"),
    "parts of text": (line(messages=user([{"type": "text", "text": "q"}])), "invalid_messages"),
    "an assistant's last word": (
        line(messages=[*user("q"), {"role": "assistant", "content": "a"}]),
        "invalid_messages",
    ),
    "an empty question": (line(messages=user("  ")), "invalid_messages"),
    "a long question": (line(messages=user("x" * 32_769)), "invalid_messages"),
    "an empty reference": (line(reference_answer=" "), "invalid_reference"),
    "a long reference": (line(reference_answer="1" * 2049), "invalid_reference"),
    "a truth value": (line(reference_answer=True), "invalid_reference"),
    "an object": (line(reference_answer={"value": "7"}), "invalid_reference"),
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
    (MATH, r"\frac{3}{4}", "math"),
    (MATH | {"answer": "0.75"}, "0.75", "math"),  # MATH-500
    (MATH | {"solution": "x" * 9000 + r"\boxed{7}"}, "7", "math"),
    (MATH | {"solution": r"\boxed{7"}, r"\boxed{7", "math"),
    ({"question": "q", "reference_answer": "a #### b"}, "a #### b", "math"),
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
    "template arguments": {
        "question": "q",
        "answer": "7",
        "chat_template_kwargs": {"enable_thinking": False, "style": "é" * 2_000, "none": None},
    },
    "full-width text": {"question": " ６*７？ ", "answer": "４２"},
}
