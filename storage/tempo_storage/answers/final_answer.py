r"""Find the final answer of a response. All verifiers read it here, and so do uploads.

A mark in the response names the answer. The first kind in this list that the response has counts,
and of several marks of this kind the last one:

    \boxed{42}  <answer>42</answer>  {"answer": 42}  #### 42  the answer is 42

Without a mark the answer is in the last line. Reasoning that a model shows before its answer is no
part of the response; a response that ends in the middle of its reasoning has no answer.

All steps take linear time.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum

from tempo_storage.boxed import Box, boxes, opens_a_box

MAX_TAIL_CHARACTERS = 4096
MAX_ANSWER_CHARACTERS = 32_768
MAX_PHRASE_CHARACTERS = 16_384  # at the end of a response, in which "the answer is" is looked for

REASONING = r"think|thinking|thought|thoughts|reasoning|analysis|scratchpad"
OPEN_REASONING = re.compile(rf"<(?:{REASONING})>|\[THINK\]|◁think▷", re.I)
CLOSED_REASONING = re.compile(rf"</(?:{REASONING})>|\[/THINK\]|◁/think▷", re.I)
FINAL_CHANNEL = "<|channel|>final<|message|>"
CHANNEL = "<|channel|>"
SPECIAL_TOKEN = re.compile(r"<\|[a-z_]{2,24}\|>|</s>|<eos>|<end_of_turn>|<｜[^｜<>]{2,32}｜>")

_TAG = "<%s(?:answer|final_answer|final answer|solution)>"
# The tag at the end may be missing.
ANSWER_TAG = re.compile(rf"{_TAG % ''}((?:(?!{_TAG % '/?'}).)*)", re.I | re.S)
# A box that repeats the instruction is no answer.
PLACEHOLDERS = frozenset(
    {"answer", "your answer", "final answer", "your final answer", "the answer", "ans", "...", "…"}
    | {r"\text{answer}", r"\text{your answer}", r"\text{final answer}", r"\ldots", r"\dots", "?"}
    | {"your answer here", "answer here", "insert answer here", "final_answer", "<answer>"}
)
NAME = r"(?:\\(?:text|mathrm|mathbf)\{[^{}]{0,12}\}|[A-Za-z](?:_\{?\w{1,3}\}?)?)"
JOINER = re.compile(
    r"[\s$\\()\[\],;.:*]*(?P<word>,|;|\bor\b|\band\b|\\text\s*\{\s*(?:or|and)\s*\}|\\lor|&)"
    rf"[\s$\\()\[\],;:*]*(?:{NAME}\s*=\s*)?[\s$\\()\[\]*]*"
)
HASHES = re.compile(r"(?:^|(?<=[.!?]\s))[ \t]*####[ \t]*(\S.*)$", re.M)
HEADING = re.compile(
    r"\W*(?:step|part|case|solution|explanation|conclusion|approach|method|verification|check|note"
    r"|summary|final|answer|reasoning|analysis|given|calculation|understand|problem|question)\b"
    r"|.*:\W*$",
    re.I,
)
# Another question after the answer is one that the model asks itself: it goes on without end.
NEXT_QUESTION = re.compile(
    r"^[^\w\n]*(?:(?:next )?question|problem|q|human|user|instruction|example)\s*(?:\d+\s*)?:",
    re.I | re.M,
)
VERB = (
    r"(?:\bis\b|\bare\b|\bwas\b|\bequals?\b|\b(?:should|must|would|will|can|could|may) be\b"
    r"|[:：=–—]|是|为)"
)
ANSWER_WORD = (
    r"(?:\b(?:final\s+)?answers?\b|\bANS\b|答案|答え|정답|답(?=\s*[:：])|ответ|réponse|respuesta"
    r"|antwort|risposta)"
)
PHRASE = re.compile(
    rf"{ANSWER_WORD}(?:[^\n.:：=–—?!]{{0,60}}?)[\"'*_\s]*{VERB}(?:{VERB}|[*_\s])*"
    r"|^[#* \t]*(?:the )?(?:final |correct )?answer[* \t]*$",
    re.I | re.M,
)
# "The answer is correct" names no answer.
NO_ANSWER = re.compile(
    r"\W*(?:correct|right|wrong|incorrect|verified|confirmed|consistent|reasonable|as follows"
    r"|given by|found|obtained|clear)\b[\s.!:]*",
    re.I,
)
JSON_FIELDS = ("final_answer", "answer", "result", "solution", "output")
# A fence of code, a rule, or a closing courtesy such as "I hope this helps!".
NO_TEXT = re.compile(
    r"^\s*(?:```[\w+-]*|[-*_=#]{3,}|(?:I )?hope this .*|let me know if .*)\s*$", re.I
)


class Mark(StrEnum):
    """How a response names its answer."""

    BOX = "box"
    TAG = "tag"
    JSON = "json"
    HASHES = "hashes"
    PHRASE = "phrase"
    LAST_LINE = "last line"


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The text of the answer, and the mark by which it was found; an empty text is no answer."""

    text: str
    mark: Mark

    @property
    def is_exact(self) -> bool:
        """Whether the mark has the answer in it and nothing else, as a box has."""
        return self.mark in (Mark.BOX, Mark.TAG, Mark.JSON, Mark.HASHES)


def visible(response: str) -> str:
    """Return the response without its reasoning; empty if it ends within its reasoning."""
    if CHANNEL in response:
        _, final, response = response.rpartition(FINAL_CHANNEL)
        if not final:
            return ""
    ends = [match.end() for match in CLOSED_REASONING.finditer(response)]
    if ends:
        response = response[ends[-1] :]
    if OPEN_REASONING.search(response):
        return ""
    return SPECIAL_TOKEN.sub("", response).strip()


def final_answer(response: str) -> FinalAnswer:
    """Return the final answer of a response, as the response writes it."""
    text = without_next_question(visible(response))
    answer = _boxed_or_tagged(text) or _in_json(text) or _after_hashes(text) or after_phrase(text)
    answer = answer or FinalAnswer(last_line(text), Mark.LAST_LINE)
    return FinalAnswer(answer.text[:MAX_ANSWER_CHARACTERS], answer.mark)


def after_phrase(text: str) -> FinalAnswer | None:
    """Return the rest of the line after the last "the answer is", or the line below it."""
    text = text[-MAX_PHRASE_CHARACTERS:]
    for match in reversed(list(PHRASE.finditer(text))):
        rest = text[match.end() : match.end() + MAX_TAIL_CHARACTERS].lstrip()
        line = _line_or_display(rest).rstrip("*. ")
        if line and not NO_ANSWER.match(line):
            return FinalAnswer(line, Mark.PHRASE)
    return None


def last_line(text: str) -> str:
    r"""Return the last line that is no fence or courtesy; the whole of a display `\[…\]`."""
    tail = text[-MAX_TAIL_CHARACTERS:].strip()
    for start, end in ((r"\[", r"\]"), ("$$", "$$"), (r"\begin{align*}", r"\end{align*}")):
        body = tail.rstrip(". \n").removesuffix(end)
        if tail.rstrip(". \n").endswith(end) and start in body:
            return body.rpartition(start)[2].strip()
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    lines = [line for line in lines if not NO_TEXT.match(line)]
    return lines[-1] if lines else ""


def without_next_question(text: str) -> str:
    """Return a text up to the question that the model asks itself after its answer."""
    for match in NEXT_QUESTION.finditer(text):
        before = text[: match.start()]
        return before if HASHES.search(before) or after_phrase(before) or boxes(before) else text
    return text


def _boxed_or_tagged(text: str) -> FinalAnswer | None:
    complete = [box for box in boxes(text) if not _is_placeholder(box.content)]
    *_, tag = [None, *(match for match in ANSWER_TAG.finditer(text) if match[1].strip())]
    if complete and (tag is None or complete[-1].start > tag.start()):
        return FinalAnswer(_joined(text, complete), Mark.BOX)
    if tag is not None:
        return _inside_tag(tag[1])
    if not boxes(text) and opens_a_box(text):
        return FinalAnswer("", Mark.BOX)  # the answer was cut off
    return None


def _is_placeholder(content: str) -> bool:
    return content.strip().casefold() in PLACEHOLDERS


def _joined(text: str, complete: list[Box]) -> str:
    r"""Return the content of the last box, with those before it in `\boxed{1} or \boxed{2}`."""
    parts = [complete[-1].content]
    for earlier, later in zip(reversed(complete[:-1]), reversed(complete[1:]), strict=True):
        if not JOINER.fullmatch(text[earlier.end : min(later.start, earlier.end + 80)]):
            break
        parts.append(earlier.content)
    return ", ".join(reversed(parts))


def _inside_tag(content: str) -> FinalAnswer:
    """Return the answer of `<answer>`, which may hold a sentence with a mark of its own."""
    complete = boxes(content)
    if complete:
        return FinalAnswer(complete[-1].content, Mark.BOX)
    return after_phrase(content) or FinalAnswer(content.strip(), Mark.TAG)


def _in_json(text: str) -> FinalAnswer | None:
    """Return the answer of a response that is one JSON object with a field for it."""
    body = "\n".join(line for line in text.splitlines() if not NO_TEXT.match(line)).strip()
    if not (body.startswith("{") and body.endswith("}")) or len(body) > MAX_TAIL_CHARACTERS:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    fields = {str(name).casefold(): field for name, field in value.items()}
    field = next((fields[name] for name in JSON_FIELDS if name in fields), None)
    if not isinstance(field, str | int | float):
        return None
    return FinalAnswer(field if isinstance(field, str) else json.dumps(field), Mark.JSON)


def _after_hashes(text: str) -> FinalAnswer | None:
    lines = [line for line in HASHES.findall(text) if not HEADING.match(line[:200])]
    return FinalAnswer(lines[-1].strip(), Mark.HASHES) if lines else None


def _line_or_display(text: str) -> str:
    r"""Return the first line, or the whole of a display `\[…\]` that starts the text."""
    for start, end in ((r"\[", r"\]"), ("$$", "$$")):
        if text.startswith(start) and end in text[len(start) :]:
            return text[len(start) :].partition(end)[0].strip()
    return text.partition("\n")[0].strip()
