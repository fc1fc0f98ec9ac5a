"""Redactors: functions that take personal data out of a question before it is first written.

TEMPO_REDACTORS names them; they run in this order. An operator adds one through the entry-point
group `tempo.redactors`: a function from a text to a text. It runs on the event loop of vLLM's API
server, so it must take time in proportion to the length of the text. A question is dropped if a
redactor raises.

The built-in one, `personal`, finds e-mail addresses, phone numbers, payment cards and keys by their
form. It finds no names and no addresses of houses, and it may take a number for a phone's.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any

from tempo_storage.errors import SettingsError

GROUP = "tempo.redactors"

Redactor = Callable[[str], str]

# No pattern may begin a long match at each of many places, or the time would grow with the square:
# a long match begins only where the character before it cannot be a part of it.
E_MAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]++@[\w-]++(?:\.[\w-]++)++")
DIGITS = re.compile(r"\d++(?:[\s.-]{1,2}\d++)*+")
CARD_LENGTHS = range(13, 20)
CARD_STARTS = "23456"
CARD_GROUPS = 5  # 4-4-4-4-3
PHONE = re.compile(
    r"(?<![\w.+])(?:"
    r"(?:\+|00)[1-9](?:[\s()./-]{0,3}\d){6,14}"  # +49 (30) 123-456, 0049 30 123456
    r"|\(\d{2,5}\)[\s-]?\d(?:[\s./-]?\d){4,9}"  # (555) 123-4567
    r"|0\d{2,4}[\s/-]{1,3}\d(?:[\s-]?\d){4,9}"  # 030 12345678, 0171/1234567
    r"|\d{3}[-.\s]\d{3}[-.\s]\d{4}"  # 555-123-4567
    r")(?!\d)"
)
KEYS = (
    re.compile(
        r"(?s)-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----END).)*+"
        r"(?:-----END[^\n-]{0,60}(?:-----)?)?"
    ),
    re.compile(r"(?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]++)?"),
    re.compile(
        r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|tk|hf|glpat|xox[a-z]|gh[a-z]|github_pat)[-_][\w-]{16,}+"
        r"|AKIA[A-Z0-9]{16}|AIza[\w-]{30,}+)"
    ),
    re.compile(r"(?i)(?<=\bbearer )\s{0,3}[\w.~+/=-]{8,}+"),
    re.compile(
        r"(?i)(?:\b|_)(?:api[ _-]?key|access[ _-]?key|secret|token|password|passwd)"
        r"['\"]?\s{0,3}[:=]\s{0,3}(?=[^\s,;\d]{0,40}\d)[^\s,;]{6,}+"
    ),
)


def redact_personal(text: str) -> str:
    """Return a text with a mark in the place of each address, card number, phone number and key."""
    for key in KEYS:
        text = key.sub("[key]", text)
    text = E_MAIL.sub("[e-mail]", text)
    text = DIGITS.sub(_without_cards, text)
    return PHONE.sub("[phone]", text)


BUILT_IN: dict[str, Redactor] = {"personal": redact_personal}


def load(names: Sequence[str]) -> list[Redactor]:
    """Return the redactors of these names; raise SettingsError for one that is not installed."""
    installed = {entry.name: entry.load for entry in entry_points(group=GROUP)}
    for name in names:
        if name not in BUILT_IN and name not in installed:
            known = ", ".join(sorted({*BUILT_IN, *installed}))
            raise SettingsError(f"TEMPO_REDACTORS names {name!r}; installed are {known}")
    return [BUILT_IN[name] if name in BUILT_IN else installed[name]() for name in names]


def redact(value: Any, redactors: Sequence[Redactor]) -> Any:
    """Return a JSON value with every text in it redacted, the names in objects excepted."""
    if isinstance(value, str):
        for redactor in redactors:
            value = redactor(value)
        return value
    if isinstance(value, dict):
        return {name: redact(item, redactors) for name, item in value.items()}
    return [redact(item, redactors) for item in value] if isinstance(value, list) else value


def _without_cards(match: re.Match[str]) -> str:
    """Return a run of digits and separators with a mark in the place of each card's number."""
    run = match.group()
    if len(run) < CARD_LENGTHS.start:
        return run
    groups = [(found.start(), found.end()) for found in re.finditer(r"\d+", run)]
    parts = []
    done = 0
    for start, end in _cards(run, groups):
        if start >= done:
            parts += [run[done:start], "[card]"]
            done = end
    return "".join([*parts, run[done:]])


def _cards(run: str, groups: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield where the groups of digits are a card's number: by length, first digit and check."""
    for first, (start, _) in enumerate(groups):
        digits = ""
        for group_start, end in groups[first : first + CARD_GROUPS]:
            digits += run[group_start : min(end, group_start + CARD_LENGTHS.stop)]
            if len(digits) >= CARD_LENGTHS.stop:
                break
            if len(digits) in CARD_LENGTHS and digits[0] in CARD_STARTS and _is_checked(digits):
                yield start, end
                break


def _is_checked(digits: str) -> bool:
    """Tell whether the last digit is the check digit of the others (Luhn)."""
    doubled = (2 * int(digit) for digit in digits[-2::-2])
    plain = (int(digit) for digit in digits[-1::-2])
    return (sum(n - 9 if n > 9 else n for n in doubled) + sum(plain)) % 10 == 0
