"""The files' routes: an upload is stored whole or not at all, before it is answered."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ledgers import captured

from tempo_server.context import Context
from tempo_storage import ledger


def stored(context: Context) -> tuple[int, int, list[str]]:
    """Return the number of files, of examples, and the names in the directory of files."""
    with context.sessions.begin() as s:
        counts = ledger.labeled.count(s)
        files = ledger.labeled.files(s)
    directory = context.settings.files_dir
    names = sorted(p.name for p in directory.iterdir()) if directory.is_dir() else []
    return len(files), sum(counts.values()), names


def line(**fields: Any) -> bytes:
    return json.dumps({"verifier": "exact"} | fields).encode() + b"\n"


def test_an_upload_is_on_disk_and_in_the_ledger_before_it_is_answered(
    admin: Any, labeled: bytes
) -> None:
    reply = admin.upload(labeled, "../../etc/passwd")
    assert reply.status_code == 200
    body = reply.json()
    assert (body["object"], body["purpose"], body["status"]) == ("file", "fine-tune", "processed")
    assert body["tempo"].pop("labeled")["held_out"] == body["tempo"]["held_out"] == 6
    body["tempo"] |= {"labeled": None, "warnings": []}  # only the answer to an upload has them
    body["tempo"]["verifiers"][0]["examples"] = []
    assert (body["bytes"], body["tempo"]["examples"]) == (len(labeled), 12)
    assert stored(admin.context) == (1, 12, [body["id"]])
    assert (admin.context.settings.files_dir / body["id"]).read_bytes() == labeled
    assert admin("GET", f"/tempo/v1/files/{body['id']}").json() == body
    assert admin("GET", "/tempo/v1/files").json()["data"] == [body]
    content = admin("GET", f"/tempo/v1/files/{body['id']}/content?held_out=true")
    assert content.content == labeled
    assert content.headers["x-content-type-options"] == "nosniff"
    (admin.context.settings.files_dir / body["id"]).unlink()
    assert admin("GET", f"/tempo/v1/files/{body['id']}/content?held_out=true").status_code == 404


def questions(start: int, end: int) -> bytes:
    return b"".join(line(question=f"question {n}", answer="a") for n in range(start, end))


def test_an_upload_says_how_many_questions_are_held_out_and_what_they_can_show(
    admin: Any,
) -> None:
    replies = [admin.upload(questions(start, start + 24)).json() for start in (0, 24)]
    replies.append(admin.upload(questions(48, 64)).json())
    counts = [reply["tempo"]["labeled"] for reply in replies]
    assert [count["held_out"] for count in counts] == [12, 24, 32]
    assert [count["missing"] for count in counts] == [40, 16, 0]
    assert counts[2]["smallest_gain"] == pytest.approx(0.14, abs=0.01)
    assert [reply["tempo"]["held_out"] for reply in replies] == [12, 12, 8]
    warnings = [warning for reply in replies for warning in reply["tempo"]["warnings"]]
    assert warnings == []
    status = admin("GET", "/tempo/v1/status").json()
    assert status["labeled"] == counts[2] == {"train": 32} | counts[2]


def test_a_dry_run_says_what_an_upload_would_hold_out(admin: Any) -> None:
    admin.upload(questions(0, 30))
    more = questions(10, 64)
    files = {"file": ("labeled.jsonl", more)}
    dry = admin("POST", "/tempo/v1/files", files=files, data={"dry_run": "true"}).json()
    uploaded = admin.upload(more).json()
    assert dry["tempo"] == uploaded["tempo"]
    assert uploaded["tempo"]["labeled"]["held_out"] == 32


def test_a_file_that_is_uploaded_again_shows_the_counts_of_now(admin: Any) -> None:
    admin.upload(questions(0, 30))
    admin.upload(questions(30, 64))
    again = admin.upload(questions(0, 30)).json()
    assert again["tempo"]["held_out"] == 15
    assert again["tempo"]["labeled"]["held_out"] == 32
    assert again["tempo"]["labeled"]["missing"] == 0


def test_uploads_at_once_do_not_both_fill_the_held_out_questions(admin: Any) -> None:
    contents = [questions(100 * n, 100 * n + 40) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(admin.upload, contents))
    assert [reply.status_code for reply in replies] == [200] * 4
    with admin.context.sessions() as s:
        held_out = ledger.labeled.count(s)["held_out"]
    # The four would hold out 20 each; the others are one in five.
    assert 32 <= held_out <= 60
    assert sum(reply.json()["tempo"]["held_out"] for reply in replies) == held_out


def test_bad_lines_are_named_and_nothing_is_stored(admin: Any, labeled: bytes) -> None:
    reply = admin.upload(labeled + b'{"messages": []}\n' + line(question="?"))
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["param"], error["errors_total"]) == ("line_errors", "file", 2)
    assert [(e["line"], e["code"]) for e in error["line_errors"]] == [
        (13, "invalid_messages"),
        (14, "missing_reference"),
    ]
    assert stored(admin.context) == (0, 0, [])


def test_all_bad_lines_are_listed_with_field_value_and_remedy(admin: Any) -> None:
    error = admin.upload(b'{"question": "q", "answer": NaN}\n' * 300).json()["error"]
    assert (len(error["line_errors"]), error["errors_total"]) == (300, 300)
    last = error["line_errors"][-1]
    assert (last["line"], last["param"], last["value"]) == (300, "answer", "NaN")
    assert "; write" in last["message"]
    assert error["message"].splitlines()[1].startswith("lines 1-300: answer: NaN: ")


def test_an_upload_and_a_dry_run_say_how_many_questions_each_verifier_has(admin: Any) -> None:
    rows = [{"question": f"{n} + 1?", "answer": n + 1} for n in range(5)]
    rows += [{"question": f"capital {n}?", "answer": "Rome"} for n in range(4)]
    rows += [{"question": "best?", "options": ["x", "y"], "answer": 1}]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    files = {"file": ("labeled.jsonl", content)}
    dry = admin("POST", "/tempo/v1/files", files=files, data={"dry_run": "true"}).json()
    verifiers = dry["tempo"]["verifiers"]
    assert [(v["verifier"], v["count"]) for v in verifiers] == [
        ("numeric", 5),
        ("words", 4),
        ("choice", 1),
    ]
    assert [example["line"] for example in verifiers[1]["examples"]] == [6, 7, 8]
    assert verifiers[1]["examples"][0]["reference"] == ["Rome"]
    uploaded = admin.upload(content).json()
    assert uploaded["tempo"]["verifiers"] == verifiers
    path = f"/tempo/v1/files/{uploaded['id']}"
    without = [verifier | {"examples": []} for verifier in verifiers]
    assert admin("GET", path).json()["tempo"]["verifiers"] == without


def test_files_of_other_formats_are_uploaded_as_they_are(admin: Any) -> None:
    rows = [{"question": f"{n} + 1?", "answer": n + 1} for n in range(8)]
    cells = "".join(f"{row['question']},{row['answer']}\n" for row in rows)
    array = json.dumps(rows).encode()
    assert admin.upload(array, "labeled.json").json()["tempo"]["examples"] == 8
    again = admin.upload(f"question,answer\n{cells}".encode(), "labeled.csv").json()
    assert (again["tempo"]["examples"], again["tempo"]["duplicates"]) == (0, 8)
    reply = admin.upload(b"PK\x03\x04", "labeled.xlsx")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_input")
    assert "save it as CSV" in reply.json()["error"]["message"]


def test_a_reference_that_its_verifier_cannot_read_is_a_bad_line(
    admin: Any, labeled: bytes
) -> None:
    bad = line(question="how many", answer="none at all", verifier="numeric")
    error = admin.upload(labeled + bad).json()["error"]
    assert [(e["line"], e["code"]) for e in error["line_errors"]] == [(13, "invalid_reference")]
    assert (error["line_errors"][0]["param"], error["line_errors"][0]["value"]) == (
        "answer",
        '["none at all"]',
    )
    assert stored(admin.context) == (0, 0, [])


def test_a_file_that_is_uploaded_twice_is_stored_once(admin: Any, labeled: bytes) -> None:
    first = admin.upload(labeled)
    second = admin.upload(labeled)
    assert second.status_code == 200
    assert second.json() == first.json()
    assert stored(admin.context)[:2] == (1, 12)


def test_a_question_that_is_stored_already_counts_as_duplicate(admin: Any, labeled: bytes) -> None:
    admin.upload(labeled)
    body = admin.upload(labeled + line(question="new", answer="yes")).json()
    assert (body["tempo"]["examples"], body["tempo"]["duplicates"]) == (1, 12)


def test_a_stored_question_with_another_reference_is_refused(admin: Any, labeled: bytes) -> None:
    admin.upload(labeled)
    reply = admin.upload(labeled.replace(b'"22"', b'"23"'))
    assert reply.status_code == 400
    errors = reply.json()["error"]["line_errors"]
    assert [(e["line"], e["code"]) for e in errors] == [(12, "conflicting_reference")]
    assert stored(admin.context)[:2] == (1, 12)


def test_files_that_are_uploaded_at_once_store_each_question_once(
    admin: Any, labeled: bytes
) -> None:
    contents = [labeled + b"\n" * n for n in range(4)]  # four files, the same questions
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(admin.upload, contents))
    assert [reply.status_code for reply in replies] == [200] * 4
    assert sorted(reply.json()["tempo"]["examples"] for reply in replies) == [0, 0, 0, 12]
    assert stored(admin.context)[:2] == (4, 12)


def test_a_failed_commit_leaves_no_file(
    admin: Any, labeled: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Callable[..., Any]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger.labeled, "add_file", fail)
    reply = admin.upload(labeled)
    assert reply.status_code == 507
    assert reply.headers["x-should-retry"] == "false"
    assert stored(admin.context) == (0, 0, [])


def test_a_captured_question_that_is_labeled_leaves_the_unlabeled_pool(
    admin: Any, labeled: bytes
) -> None:
    with admin.context.sessions.begin() as s:
        ledger.pool.add(s, [captured("q", "3 + 3 ?")])
    admin.upload(labeled)
    with admin.context.sessions.begin() as s:
        assert ledger.pool.count(s) == (0, 0)


def test_a_labeled_question_in_other_spaces_is_still_the_same_question(
    admin: Any, labeled: bytes
) -> None:
    admin.upload(labeled)
    again = admin.upload(labeled.replace(b" + ", b"  +\\t")).json()
    assert (again["tempo"]["examples"], again["tempo"]["duplicates"]) == (0, 12)
    reply = admin.upload(labeled.replace(b" + ", b"  + ").replace(b'"22"', b'"23"'))
    assert reply.json()["error"]["line_errors"][0]["code"] == "conflicting_reference"
    assert stored(admin.context)[:2] == (2, 12)


def test_a_labeled_question_with_a_courtesy_is_another_one_of_the_same_split(
    admin: Any, labeled: bytes
) -> None:
    admin.upload(labeled)
    again = admin.upload(labeled.replace(b' ?"', b' ? please"')).json()
    assert (again["tempo"]["examples"], again["tempo"]["duplicates"]) == (12, 0)
    with admin.context.sessions() as s:
        held_out = ledger.labeled.held_out(s, limit=99)
    questions = [example.messages[-1]["content"] for example in held_out]
    assert len({text.removesuffix(" please") for text in questions}) == len(questions) / 2 == 6


def test_a_dry_run_checks_everything_and_stores_nothing(admin: Any, labeled: bytes) -> None:
    def dry(content: bytes) -> Any:
        files = {"file": ("labeled.jsonl", content)}
        return admin("POST", "/tempo/v1/files", files=files, data={"dry_run": "true"})

    report = dry(labeled).json()
    assert stored(admin.context) == (0, 0, [])
    body = admin.upload(labeled).json()
    changes = {"id": report["id"], "created_at": report["created_at"]}
    assert report == body | changes
    before = stored(admin.context)
    again = dry(labeled + line(question="new", answer="yes")).json()
    assert (again["tempo"]["examples"], again["tempo"]["duplicates"]) == (1, 12)
    conflict = dry(labeled.replace(b'"22"', b'"23"'))
    assert conflict.json()["error"]["line_errors"][0]["code"] == "conflicting_reference"
    unreadable = dry(labeled + line(question="?", answer="none", verifier="numeric"))
    assert unreadable.json()["error"]["line_errors"][0]["code"] == "invalid_reference"
    assert stored(admin.context) == before


def test_a_labeled_question_that_users_asked_is_reported(admin: Any, labeled: bytes) -> None:
    with admin.context.sessions.begin() as s:
        ledger.pool.add(s, [captured("q", "3 + 3 ?")])
    notes = {w["code"]: w for w in admin.upload(labeled).json()["tempo"]["warnings"]}
    assert (notes["asked"]["line"], notes["asked"]["count"]) == (4, 1)


def test_an_upload_larger_than_the_limit_is_refused_while_it_is_read(admin: Any) -> None:
    reply = admin.upload(b" " * (34 << 20))
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "too_large"
    assert reply.json()["error"]["message"].startswith("the request is larger")


def test_an_upload_without_a_file_is_refused(admin: Any) -> None:
    reply = admin("POST", "/tempo/v1/files", data={"purpose": "fine-tune"})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "file"
    assert reply.json()["error"]["code"] == "missing_field"


def test_files_are_listed_page_by_page(admin: Any, labeled: bytes) -> None:
    for n in range(3):
        admin.upload(b"".join(line(question=f"{n} {i}", answer="a") for i in range(8)))
    first = admin("GET", "/tempo/v1/files", params={"limit": 2}).json()
    assert (len(first["data"]), first["has_more"]) == (2, True)
    after = {"limit": 2, "after": first["data"][-1]["id"]}
    rest = admin("GET", "/tempo/v1/files", params=after).json()
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    assert admin("GET", "/tempo/v1/files", params={"after": "file-x"}).status_code == 404
