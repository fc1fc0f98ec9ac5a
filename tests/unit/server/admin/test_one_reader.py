"""An upload and a study read the same question, reference and verifier, or both refuse the line."""

import json
from pathlib import Path
from typing import Any

import pytest
from labeled_lines import ACCEPTED, GSM8K, MATH, REFUSED, WORKED, line
from ledgers import user

from tempo_lab.study.questions import Data, read
from tempo_server.admin import references
from tempo_storage import ledger
from tempo_storage.errors import InvalidInputError
from tempo_storage.labeled.file import MIN_EXAMPLES

ROWS = [*ACCEPTED.values(), *(row for row, *_ in WORKED)]
OTHERS = [user(f"other {n}") for n in range(MIN_EXAMPLES)]  # an upload wants so many questions
FILLER = b"".join(line(messages=messages) for messages in OTHERS)
Reading = dict[str, tuple[Any, ...]] | list[str]


@pytest.fixture(autouse=True)
def _no_verifier_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the one step of an upload that a study does not make."""
    monkeypatch.setattr(references, "check", lambda examples: [])


def upload(admin: Any, content: bytes) -> Reading:
    """Return what the ledger has after an upload, or the lines of the error message."""
    reply = admin.upload(content)
    if reply.status_code != 200:
        message: str = reply.json()["error"]["message"]
        return message.splitlines()[1:]
    with admin.context.sessions() as s:
        rows = [*ledger.labeled.examples(s, "train"), *ledger.labeled.examples(s, "held_out")]
    return {
        e.content_hash: (e.messages, e.reference, e.verifier, e.details, e.chat_template_kwargs)
        for e in rows
    }


def study(path: Path, content: bytes, *, needs_answers: bool = True) -> Reading:
    """Return what a study reads, or the lines of the error message."""
    path.write_bytes(content)
    try:
        file = read(str(path), needs_answers=needs_answers)
    except InvalidInputError as error:
        return str(error).splitlines()[1:]
    return {
        q.id: (
            *(q.messages, file.answers.get(q.id, []), q.verifier, q.metadata),
            q.chat_template_kwargs,
        )
        for q in file.questions
    }


@pytest.mark.parametrize("row", ROWS)
def test_an_upload_and_a_study_read_the_same(
    row: dict[str, Any], admin: Any, tmp_path: Path
) -> None:
    content = FILLER + json.dumps(row).encode()
    reading = study(tmp_path / "labeled.jsonl", content)
    assert len(reading) == MIN_EXAMPLES + 1
    assert upload(admin, content) == reading


def test_an_upload_and_a_study_refuse_the_same(admin: Any, tmp_path: Path) -> None:
    contents = {name: FILLER + content + b"\n" for name, (content, _) in REFUSED.items()}
    path = tmp_path / "labeled.jsonl"
    refusals = {name: study(path, content) for name, content in contents.items()}
    assert {name: upload(admin, content) for name, content in contents.items()} == refusals
    assert all(isinstance(lines, list) and len(lines) == 1 for lines in refusals.values())


def test_an_upload_and_a_study_hold_out_the_same_questions(admin: Any, tmp_path: Path) -> None:
    (tmp_path / "labeled.jsonl").write_bytes(FILLER)
    (tmp_path / "unlabeled.jsonl").write_bytes(b'{"question": "new"}')
    assert isinstance(upload(admin, FILLER), dict)
    with admin.context.sessions() as s:
        rows = ledger.labeled.examples(s, "held_out")
    data = Data.load(str(tmp_path / "labeled.jsonl"), str(tmp_path / "unlabeled.jsonl"))
    held_out = [question.id for question in data.held_out.questions]
    assert sorted(held_out) == [row.content_hash for row in rows]
    assert len(held_out) == MIN_EXAMPLES // 2


@pytest.mark.parametrize("row", ROWS)
def test_an_unlabeled_file_is_read_as_a_labeled_one(row: dict[str, Any], tmp_path: Path) -> None:
    content = json.dumps(row).encode()
    labeled = study(tmp_path / "labeled.jsonl", content)
    assert study(tmp_path / "unlabeled.jsonl", content, needs_answers=False) == labeled


def test_an_unlabeled_file_may_lack_the_answers_and_nothing_else(tmp_path: Path) -> None:
    for content, code in REFUSED.values():
        reading = study(tmp_path / "unlabeled.jsonl", content, needs_answers=False)
        assert isinstance(reading, dict) is (code == "missing_reference")


def test_a_conflict_within_a_file_is_refused_by_both(admin: Any, tmp_path: Path) -> None:
    content = FILLER + line(messages=OTHERS[0], reference_answer="43")
    error = [
        'line 9: reference_answer: ["43"]: line 1 has this question with another reference;'
        " keep one"
    ]
    assert upload(admin, content) == study(tmp_path / "labeled.jsonl", content) == error


@pytest.mark.parametrize(
    ("row", "answer", "verifier"),
    [(GSM8K, ["72"], "numeric"), (MATH, [r"\frac{3}{4}"], "numeric")],
)
def test_a_study_takes_the_lines_of_gsm8k_and_math(
    row: dict[str, Any], answer: list[str], verifier: str, tmp_path: Path
) -> None:
    reading = study(tmp_path / "labeled.jsonl", json.dumps(row).encode())
    assert isinstance(reading, dict)
    assert [values[1:3] for values in reading.values()] == [(answer, verifier)]
