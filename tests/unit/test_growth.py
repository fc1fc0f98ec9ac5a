"""No parser or normaliser takes more than linear time, whatever a user or an uploader sends."""

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from text_verifiers import VERIFIERS

from tempo_server.admin.graders import VARIABLE
from tempo_server.capture.question import from_chat
from tempo_storage.answers.final_answer import final_answer
from tempo_storage.answers.numbers import only_number
from tempo_storage.answers.plain_text import folded
from tempo_storage.answers.units import unit_of
from tempo_storage.boxed import boxes
from tempo_storage.errors import TempoError
from tempo_storage.labeled.choice_of_verifier import choose_verifier
from tempo_storage.labeled.file import parse
from tempo_storage.labeled.options import Options, append_options
from tempo_storage.question_hash import content_hash, loose_hash, old_hash, pool_hash

SIZES = [2**exponent for exponent in range(12, 17)]  # the top four doublings up to 64 KiB
MAX_EXPONENT = 1.3
# Behind each start stand many of the first three, and all alone stand many of each.
FILLERS = (" ", "\n", "a", ".", "*", "(", "{", "1", "\\", "\u0300\u0315")
STARTS = (
    *("", "question", "answer", "the answer is", "####", "```", r"\boxed", r"\boxed{", "<answer>"),
    *("please", "hope this", "A", "x =", "1", "not ", "what's", "{{", "{{item", '{"question"'),
)
PIECES = (
    *("please ", "hi ", " thanks", " a:", "aa. ", "aa! ", "3? ", "question: ", "\nQ:", "#### 1\n"),
    *("the answer is ", r"\boxed{", r"\boxed{1} or ", "<answer>", "</answer>", "(A) ", "A) ", "A)"),
    *('{"a":', "[1,", '"a",', "{},", '{"a":1}', '"', "```\n", "{{item.a}}", "1 m/", "²a", "a\t"),
    *("1,000,", "1/2 ", "e5", "- ", " - ", "an ", "the a ", "is ", r"\{", "<b>", "|", "½", "\r\n"),
    *("\u200b", r"\text{", r"\frac{", "$", ",", ":", "_", "?", "é", "<think>", "<|", ". ", "a.b."),
)


def shapes() -> dict[str, Callable[[int], str]]:
    """Return texts of any size by a name: a start, a long filler, and an end that does not fit."""
    made: dict[str, Callable[[int], str]] = {}
    for start in STARTS:
        for filler in FILLERS[:3] if start else FILLERS:
            made[f"{start}{filler}…"] = lambda n, s=start, f=filler: s + f * (n // len(f)) + "~x"
    for piece in PIECES:
        made[f"({piece})…"] = lambda n, p=piece: p * (n // len(p))
    for opening, closing in ("[]", "{}", "()", ("<b>", "</b>"), (r"\text{", "}"), ('{"a":', "}")):
        made[f"{opening}…{closing}"] = lambda n, o=opening, c=closing: (
            o * (n // len(o + c)) + c * (n // len(o + c))
        )
    return made


def chat(text: str) -> None:
    messages = [{"role": "user", "content": text}]
    from_chat(SimpleNamespace(messages=messages, chat_template_kwargs={"a": text}))


def hashes(text: str) -> None:
    messages = [{"role": "user", "content": text}]
    for key in (content_hash, loose_hash, old_hash, pool_hash):
        key(messages)


def line(text: str) -> None:
    for fields in ({"question": "q", "answer": text}, {"question": text, "options": text}):
        parse(json.dumps(fields).encode(), {"math", "numeric", "words", "choice", "json_equal"})


def verify(text: str) -> None:
    for verifier in VERIFIERS:
        verifier.verify(text, ["5"], {"options": ["a", text[:256]]})


READERS: dict[str, Callable[[str], Any]] = {
    "the chat of a request": chat,
    "the keys of a question": hashes,
    "a file": lambda text: parse(text.encode(), {"math"}),
    "an array": lambda text: parse(f"[{text}".encode(), {"math"}),
    "a table": lambda text: parse(f"question,answer\n{text}".encode(), {"math"}),
    "a labeled line": line,
    "a final answer": final_answer,
    "boxes": boxes,
    "a plain text": folded,
    "a number": only_number,
    "a unit": unit_of,
    "a reference": lambda text: choose_verifier([text[:2048]], {}),
    "the options of a question": lambda text: append_options(
        text[: len(text) // 2],
        Options([text[len(text) // 2 :] + "!", "b"], ["A", "B"], ("options",)),
    ),
    "a response": verify,
    "the variables of a grader": VARIABLE.findall,
}


def seconds(reader: Callable[[str], Any], text: str, runs: int = 1) -> float:
    """Return the processor time of the quickest run."""
    times = []
    for _ in range(runs):
        started = time.process_time()
        with suppress(TempoError, RecursionError):  # a refusal
            reader(text)
        times.append(time.process_time() - started)
    return min(times)


def exponent(reader: Callable[[str], Any], shape: Callable[[int], str]) -> float:
    """Return the growth exponent of the time: the slope of its logarithm."""
    logs = [math.log2(seconds(reader, shape(size), runs=7) + 1e-9) for size in SIZES]
    steps = range(-2, 3)
    return sum(step * log for step, log in zip(steps, logs, strict=True)) / 10


def is_linear(reader: Callable[[str], Any], shape: Callable[[int], str]) -> bool:
    """Tell whether the exponent is below 1.3; measure it only where a look leaves a doubt."""
    half, whole, *_ = SIZES
    for runs in (1, 3):
        time_of_whole = seconds(reader, shape(whole), runs)
        if time_of_whole < max(0.0005, 2.2 * seconds(reader, shape(half), runs + 1)):
            return True
    return exponent(reader, shape) < MAX_EXPONENT


@pytest.mark.parametrize("name", READERS)
@pytest.mark.attack(
    "time and memory",
    "the worst texts of up to 64 KiB for each parser, normaliser and verifier",
    promise="the time grows in proportion to the text (exponent below 1.3)",
)
def test_the_time_of_a_reader_grows_no_faster_than_its_text(
    name: str, seen: Callable[[object], None]
) -> None:
    reader = READERS[name]
    slow = (text for text, shape in shapes().items() if not is_linear(reader, shape))
    assert [*islice(slow, 3)] == []
    seen(f"{len(shapes())} texts, 0 slow")


def test_the_measurement_notices_a_quadratic_reader() -> None:
    def quadratic(text: str) -> None:
        for end in range(0, len(text), 16):
            text[:end].count("x")

    assert not is_linear(quadratic, lambda n: "a" * n)
