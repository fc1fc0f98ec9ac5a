"""Redactors take personal data out of a question before it is first written, in linear time."""

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ledgers import user
from processes import install
from starlette.datastructures import Headers

from tempo_server.capture import question, redaction
from tempo_server.capture.capture import Capture
from tempo_server.capture.redaction import redact_personal
from tempo_server.capture.spool import Counters, Spool
from tempo_server.settings import ServerSettings
from tempo_storage.errors import SettingsError

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Mail ann.b+c@mail.example.org.", "Mail [e-mail]."),
        ("müller@exämple.de, x@y.z", "[e-mail], [e-mail]"),
        ("(a_b@c-d.co.uk)", "([e-mail])"),
        ("pay 4111 1111 1111 1111 12/27", "pay [card] 12/27"),
        ("12 4111-1111-1111-1111 2 times", "12 [card] 2 times"),
        ("5500.0000.0000.0004", "[card]"),
        ("378282246310005 and 3782 822463 10005", "[card] and [card]"),
        ("1 2 3 4 5 6 7 8 9 10 11 12 4111 1111 1111 1111", "1 2 3 4 5 6 7 8 9 10 11 12 [card]"),
        ("two: 4111111111111111 5500000000000004", "two: [card] [card]"),
        ("call +49 170 1234567 now", "call [phone] now"),
        ("+1 (555) 123-4567; +12025550143", "[phone]; [phone]"),
        ("0049 30 123456", "[phone]"),
        ("(555) 123-4567 or 555-123-4567 or 555.123.4567", "[phone] or [phone] or [phone]"),
        ("030 12345678, 0171/1234567", "[phone], [phone]"),
        ("use sk-proj-aaaaaaaaaaaaaaaaaaaa", "use [key]"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789!", "[key]!"),
        ("AKIAIOSFODNN7EXAMPLE", "[key]"),
        ("xoxb-123456789012-abcdef; hf_abcdefghijklmnopqrst", "[key]; [key]"),
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer [key]"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def", "token [key]"),
        ('api_key="s3cr3t-value", password: hunter2!', "[key], [key]"),
        (f"a {PEM} b", "a [key] b"),
        (f"cut {PEM[:50]}", "cut [key]"),
    ],
)
def test_addresses_cards_phones_and_keys_are_taken_out(text: str, redacted: str) -> None:
    assert redact_personal(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "What is 12 * 13 + 123456789?",
        "Round 3.14159265358979 to two places; 0.001234567 to four",
        "Is 1234567890123456 divisible by 3?",  # its last digit is no check digit
        "use 3 10 15 make 45 ?",
        "On 2026-11-28 at 10:30, 1,000,000 people",
        "x+1234567 = y, f(12345)",
        "a @ b, @decorator, 5 @ 3.50",
        "the token is a word; the password was long",
        "sk-learn and risk-averse",
    ],
)
def test_mathematics_and_ordinary_text_stay_as_they_are(text: str) -> None:
    assert redact_personal(text) == text


WORST = {
    "a local part without an end": "a",
    "many @": "a@",
    "domains without a dot": "a@b",
    "dots": "a@b.",
    "one digit": "4",
    "digits apart": "4 ",
    "groups of a card": "4111 ",
    "phones that break off": "+1 ",
    "zeros": "00",
    "brackets": "(55",
    "beginnings of a private key": "-----BEGIN PRIVATE KEY-----",
    "ends of a private key": "-----BEGIN PRIVATE KEY-----END",
    "beginnings of a token": "-eyJhbGciOiJI.",
    "beginnings of a key": "sk-",
    "names of keys": "api_key=",
    "bearers": "bearer ",
    "spaces": " ",
    "words": "secret: ",
}


@pytest.mark.parametrize("worst", WORST)
def test_redaction_takes_linear_time_whatever_the_text_is(worst: str) -> None:
    part = WORST[worst]

    def seconds(size: int) -> float:
        text = part * (size // len(part))
        times = []
        for _ in range(7):
            start = time.thread_time()  # other programs may have the processor in between
            redact_personal(text)
            times.append(time.thread_time() - start)
        return min(times)

    small, large = seconds(1 << 12), seconds(1 << 16)
    assert math.log2(large / small) / 4 < 1.3
    assert large < 0.5


# In the capture ----------------------------------------------------------------------------------


def captured(root: Path, redactors: str, **fields: Any) -> tuple[list[Any], Counters]:
    """Capture a request; return the lines of the spool, and the counters."""
    settings = ServerSettings(data_dir=root, redactors=redactors)
    spool = Spool(root / "spool", limit_bytes=1 << 20)
    capture = Capture(settings, spool, redactors=redaction.load(settings.redactor_names))
    request = SimpleNamespace(**fields)
    capture.keep(request, question.from_chat, headers=Headers(), is_opted_out=False)
    files = (root / "spool").glob("*.active")
    lines = [line for path in files for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines], spool.counters


def test_no_file_ever_holds_the_text_before_redaction(tmp_path: Path) -> None:
    system = {"role": "system", "content": "You help ann@example.org"}
    parts = [{"type": "text", "text": "call +49 170 1234567"}, {"type": "text", "text": "now"}]
    messages = [system, {"role": "user", "content": parts}]
    arguments = {"who": ["bob@example.org"], "n": 4}
    lines, _ = captured(tmp_path, "personal", messages=messages, chat_template_kwargs=arguments)
    (record,) = lines
    assert record["messages"][0]["content"] == "You help [e-mail]"
    assert record["messages"][1]["content"][0]["text"] == "call [phone]"
    assert record["chat_template_kwargs"] == {"who": ["[e-mail]"], "n": 4}
    assert arguments == {"who": ["bob@example.org"], "n": 4}  # vLLM's own request is unchanged
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"example.org" not in content
    assert b"1234567" not in content


PLUGIN = """
def redact(text):
    if "explode" in text:
        raise ValueError(text)
    return text.replace("Ann", "somebody")
"""


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's own redactor."""
    entry_points = "[tempo.redactors]\nnames = own_redactor:redact\n"
    install(tmp_path / "site", "own_redactor", PLUGIN, entry_points=entry_points)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("_installed")
def test_an_operator_s_redactor_runs_in_the_order_of_the_setting(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"messages": user("Ann is ann@example.org")}
    lines, _ = captured(tmp_path, "names, personal", **fields)
    assert lines[0]["messages"] == user("somebody is [e-mail]")


@pytest.mark.usefixtures("_installed")
def test_a_question_is_dropped_if_a_redactor_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines, counters = captured(tmp_path, "names", messages=user("explode 4711"))
    assert (lines, counters) == ([], Counters(dropped=1))
    assert "4711" not in caplog.text


def test_a_redactor_that_is_not_installed_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"'presidio'; installed are .*personal"):
        redaction.load(["presidio"])
