"""The verifier `choice` compares the letter of an option, or the option's text."""

import re
import string
from collections.abc import Mapping
from typing import Any

from tempo_storage.answers.final_answer import (
    ANSWER_WORD,
    FinalAnswer,
    Mark,
    final_answer,
    visible,
    without_next_question,
)
from tempo_storage.answers.numbers import only_number
from tempo_storage.answers.plain_text import folded, plain
from tempo_trainer.sampling.verifying.contract import Metadata, References, Verdict
from tempo_trainer.sampling.verifying.exact import leading_words, readings

MAX_CHARACTERS = 4096
ASCII_SIGNS = str.maketrans("。（）", ".()")
OPTION_NAMES = ("options", "choices")

LETTER = re.compile(r"\W*([A-Za-z])\W*")
# A letter at the start of an answer: (C), [C], C., C), C: or a letter alone.
START = re.compile(
    r"[\s*_\"'`$\\]*(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?:[.):]|(?=\s*$))"
    r"|(?P<bare>[A-Z])(?=[\W_])|([b-hj-z])(?=\s*[.,;!]\s))(?![\w'’])",
    re.M,
)
FONT = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|textrm|boldsymbol|bf|rm|boxed|fbox)\b\s*"
    r"|[{}$*_`~\"“”#]|\\[()\[\], ;!]"
)
ANSWER = re.compile(
    rf"{ANSWER_WORD}|\b(?:correct|right|best|final|my|appropriate|true)\s+"
    r"(?:option|choice|statement|letter|one)\b"
    r"|(?<!not )\bcorrect(?=\s*:)",
    re.I,
)
MENTION = re.compile(r"\b(?:options?|choices?|letter)\b", re.I)
# Words between "the answer" and its letter. "I" and "an" are here only as words.
FILLER = re.compile(
    r"(?:[\s:：=,\-–—>]+|是|为|[选選]|'s\b|\bnot\s+\(?[A-Z]\)?\s*,?\s*but\b"
    r"|\b(?-i:an?)(?= (?:option|choice)\b)|\bi(?=\s+(?:think|believe|choose|would|am|pick|go))"
    r"|\b(?:is|are|be|should|must|would|will|has|to|the|options?|choices?|letter|answer|correct"
    r"|final|thus|therefore|so|hence|then|clearly|definitely|likely|probably|most|indeed|simply"
    r"|just|actually|again|think|believe|say|choose|pick|select|go|with|it|that|of|course|given"
    r"|by|am|sure|es|ist|est|lautet|correcta|correcte)\b)+",
    re.I,
)
# The letter is an option if this follows it: "A because …". In "A cat" it is a word.
AFTER_LETTER = re.compile(
    r"[ \t]*(?:$|[.,;:!?)\]\n–—(-]|</"
    r"|(?:because|since|as|is|are|was|which|and|not|but|so|for|due|with|among|from|if|when)\b)"
)
# Two letters are no choice.
OTHER_LETTER = re.compile(r"\)?\s*(?:,|/|or|and|&)\s*(?:option\s+)?\(?[A-Z]\)?(?![\w'’])")
CORRECTION = re.compile(
    r"\b(?:wait|actually|correction|rather|instead|sorry|scratch that|no)\b[,.:;!]?", re.I
)
LONE = re.compile(
    r"(?<!\w)\(([A-Za-z])\)(?!\w| fails| is (?:wrong|incorrect|false|not)\b)"
    r"|^[^\w\n]*([A-Za-z])[^\w\n]*$"
    r"|(?i:\bis\s+)(?:option\s+)?\(?([A-Z])\)?(?=\s*(?:[.,;!]|$))",
    re.M,
)
CONCLUDED = re.compile(
    r"(?:(?i:\b(?:it's|it is|(?:must|would|should) be|go with|choose|pick|select|say|so|hence|thus"
    r"|therefore|but),?\s+)|[选選]\s*)(?:option\s+)?\(?([A-Z])\)?(?=\s*(?:[.,;!。]|\s[–—]\s|$))",
    re.M,
)
# "B is the correct answer".
PRAISED = re.compile(
    r"(?<![\w'’])([A-Z])\)?(?= (?:is|must be) (?:the )?(?:correct|right|best|true|answer)\b)"
)
# "A, because B is wrong", "C - Paris", but no list "A - Paris, B - London".
REASONED = re.compile(
    r"\A[*_\s(]*([A-Z])[)*_ ]*"
    r"(?:[,.;]?\s+(?i:because|since)\b|\s[-–—]\s(?!.*(?<!\w)[A-Z][)*_ ]*\s[-–—]\s))",
    re.S,
)
LETTER_AFTER_TEXT = re.compile(r"(.+)\(([A-Z])\)\W*")
LED = re.compile(r"\A[*_\s]*([A-Za-z])[.):]\s.*\Z")
LISTED = re.compile(r"(?<!\w)[A-Z][.):]\s")


class Choice:
    """The answer is one letter from A to Z, or the text of an option in `metadata["options"]`.

    The letter in a box counts, else the one after "the answer is", else the last one that stands
    alone, as in "(B)". The words "I" and "a" are no letters of options.
    """

    name = "choice"

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference is not one letter."""
        return self.check_question(reference, {})

    def check_question(self, reference: References, metadata: Metadata) -> str | None:
        """Return an error if a reference is neither one letter nor an option."""
        options = _options(metadata)
        faulty = [one for one in reference if _reference_letter(one, options) is None]
        if not faulty:
            return None
        if not options:
            return f"{faulty[0]!r} is not one letter from A to Z"
        return f"{faulty[0]!r} is none of the {len(options)} options, and no letter of one"

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the letter that the response chooses."""
        options = _options(metadata)
        letter = _letter(response, options)
        if letter is None:
            return Verdict(False, None, "no choice")
        return Verdict(letter in {_reference_letter(one, options) for one in reference}, letter)


def letter_of(response: str) -> str | None:
    """Return the letter that a response chooses, without looking at options' texts."""
    return _letter(response, {})


def _letter(response: str, options: Mapping[str, str]) -> str | None:
    answer = final_answer(response)
    text = without_next_question(visible(response))[-MAX_CHARACTERS:]
    text = FONT.sub(" ", text).translate(ASCII_SIGNS)
    if _contradicts(answer, options):
        return None
    if len(folded(answer.text)) > 1 and folded(answer.text) in options.values():
        return _by_text(answer, options)  # "E. coli" is no letter E
    if answer.is_exact:
        return _leading_letter(answer.text) or _by_text(answer, options) or _named(text)
    if not ANSWER.search(text):
        return _by_text(answer, options) or _named(text) or _last(CONCLUDED, text) or _lone(text)
    return (
        _named(text) or _by_text(answer, options) or _last(CONCLUDED, text) or _last(PRAISED, text)
    )


def _leading_letter(text: str) -> str | None:
    """Return the letter of a box: `C`, `(C) 12`, `C. 12 apples`, `Answer: C`."""
    text = FONT.sub(" ", text).strip()
    match = START.match(text)
    if match is None:
        return _named(text)
    return _of(match) if _is_choice(match, text) else None


def _named(text: str) -> str | None:
    """Return the letter after the last "answer is", or after a later correction of it."""
    for name in reversed(list(ANSWER.finditer(text))):
        line = text[name.end() : name.end() + 400]
        choice = _after_filler(line)
        if choice is None:
            continue
        letter, end = choice
        for correction in CORRECTION.finditer(line, end):
            letter = (_after_filler(line[correction.end() :]) or (letter, 0))[0]
        return letter
    mentions = list(MENTION.finditer(text))
    if len(mentions) == 1:
        choice = _after_filler(text[mentions[0].end() : mentions[0].end() + 100])
        return choice[0] if choice else None
    return None


def _after_filler(text: str) -> tuple[str, int] | None:
    """Return the letter that follows words without meaning, and its end."""
    filler = FILLER.match(text)
    match = START.match(text, filler.end() if filler else 0)
    if match is None or not _is_choice(match, text):
        return None
    return _of(match), match.end()


def _is_choice(match: re.Match[str], text: str) -> bool:
    """Tell whether a letter is no word of a sentence, and not one of several letters."""
    if match["bare"] and not AFTER_LETTER.match(text, match.end()):
        return False
    return not OTHER_LETTER.match(text, match.end())


def _of(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()


def _lone(text: str) -> str | None:
    """Return the last letter that stands alone; None where the text lists several options."""
    first, _, rest = text.strip().partition("\n")
    letters = list(LONE.finditer(rest or first))
    if (label := LED.match(first)) and not (rest and letters):
        return label[1].upper() if len(LISTED.findall(text)) < 2 else None
    letters = letters or list(LONE.finditer(first))
    if letters:
        return _of(letters[-1])
    reasoned = None if CORRECTION.search(text) else REASONED.match(text)
    return reasoned[1] if reasoned else _last(PRAISED, text)


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    return next(reversed(pattern.findall(text)), None)


def _contradicts(answer: FinalAnswer, options: Mapping[str, str]) -> bool:
    """Tell whether "London (A)" has the text of one option and the letter of another."""
    match = LETTER_AFTER_TEXT.fullmatch(answer.text)
    if match is None:
        return False
    text = folded(match[1])
    return text in options.values() and options.get(match[2]) != text


def _by_text(answer: FinalAnswer, options: Mapping[str, str]) -> str | None:
    """Return the letter of the only option that has the text of the answer, or else its number."""
    texts = {*map(folded, readings(answer)), leading_words(answer.text, answer.mark)}
    # Of the options B, C and A the answer A names the first one: the letter goes before the text.
    texts -= {letter.casefold() for letter in options}
    letters = [letter for letter, option in options.items() if option in texts]
    if not letters and (number := only_number(answer.text)) is not None:
        letters = [one for one in options if number.equals(only_number(options[one]))]
    return letters[0] if len(letters) == 1 else None


def _options(metadata: Metadata) -> dict[str, str]:
    """Return the folded texts of the options by their letters."""
    value: Any = next((metadata[name] for name in OPTION_NAMES if metadata.get(name)), [])
    if isinstance(value, dict) and isinstance(value.get("text"), list):  # {"label": […], …}
        value = dict(zip(value.get("label", string.ascii_uppercase), value["text"], strict=False))
    if isinstance(value, list):
        value = dict(zip(string.ascii_uppercase, value, strict=False))
    return {str(letter).upper(): folded(str(text)) for letter, text in value.items()}


def _reference_letter(reference: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of a reference, which may be a letter, `C. text` or an option's text."""
    text = FONT.sub("", plain(reference))
    match = LETTER.fullmatch(text)
    if match and (not options or match[1].upper() in options):
        return match[1].upper()
    by_text = _by_text(FinalAnswer(plain(reference), Mark.BOX), options)
    prefix = None if match else re.match(r"\W*([A-Z])[.):]\s", text)
    return by_text or (prefix[1] if prefix else None)
