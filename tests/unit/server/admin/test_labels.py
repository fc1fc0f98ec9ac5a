"""Labels are listed, corrected, removed and exported, and no question changes its split."""

import json
import time
from typing import Any

import openai
import pytest
from data_sets import ROWS
from ledgers import candidate, iteration, user

import tempo_client
from tempo_client import Tempo
from tempo_server.admin import references
from tempo_storage import ledger
from tempo_storage.labeled.line import Example

LABELS = "/tempo/v1/labels"


def line(n: int, answer: str = "a", **fields: Any) -> bytes:
    row = {"question": f"question {n}", "answer": answer, "verifier": "exact"}
    return json.dumps(row | fields).encode() + b"\n"


def lines(*numbers: int) -> bytes:
    return b"".join(line(n) for n in numbers)


@pytest.fixture
def tempo(admin: Any, address: str) -> Any:
    with Tempo(address, api_key=admin.key) as client:
        yield client


def splits(tempo: Tempo) -> dict[str, str]:
    return {
        label.messages[-1]["content"]: label.split for label in tempo.labels.list(held_out=True)
    }


def digest(admin: Any) -> str:
    with admin.context.sessions() as s:
        return ledger.labeled.held_out_digest(s)


def test_a_file_that_is_deleted_and_replaced_leaves_the_held_out_questions_as_they_were(
    admin: Any, tempo: Tempo
) -> None:
    file = tempo.files.create(lines(*range(100)))
    tempo.files.create(lines(*range(90, 150)))
    before = splits(tempo)
    first_digest = digest(admin)
    deleted = tempo.files.delete(file.id)
    assert (deleted.id, deleted.examples, deleted.adapters) == (file.id, 90, [])
    assert splits(tempo) == {q: split for q, split in before.items() if int(q.split()[1]) >= 90}
    assert not (admin.context.settings.files_dir / file.id).exists()
    with pytest.raises(tempo_client.NotFoundError):
        tempo.files.retrieve(file.id)
    assert tempo.files.create(lines(*range(90)) + line(1000)).examples == 91
    assert splits(tempo).items() > before.items()
    new = next(
        label
        for label in tempo.labels.list(held_out=True)
        if "1000" in label.messages[-1]["content"]
    )
    tempo.labels.remove(new.id)
    assert digest(admin) == first_digest


def test_a_file_that_grows_changes_no_split(tempo: Tempo) -> None:
    tempo.files.create(lines(*range(10)))
    before = splits(tempo)
    assert tempo.files.create(lines(*range(80))).examples == 70
    assert splits(tempo).items() > before.items()


def test_a_version_that_learned_from_a_deleted_file_is_named(admin: Any, tempo: Tempo) -> None:
    file = tempo.files.create(lines(*range(8)))
    with admin.context.sessions.begin() as s:
        s.add(iteration("job", 1, created_at=time.time() + 1))
        s.add(candidate(1, checkpoint="job-1"))
    label = tempo.labels.list(held_out=True)[0]
    assert tempo.labels.remove(label.id).adapters == ["tempo-v1"]
    assert tempo.files.delete(file.id).adapters == ["tempo-v1"]
    events = [event["message"] for event in _events(admin)]
    assert f"label {label.id} was removed" in events
    assert f"file {file.id} (labeled.jsonl) was deleted with 7 labeled questions" in events


def _events(admin: Any) -> list[dict[str, Any]]:
    with admin.context.sessions() as s:
        return [{"message": event.message} for event in ledger.events.find(s)]


def test_a_replaced_answer_keeps_the_split_and_makes_a_new_set_for_the_gate(
    admin: Any, tempo: Tempo
) -> None:
    tempo.files.create(lines(*range(8)))
    label = tempo.labels.list(held_out=True, split="held_out")[0]
    before = (splits(tempo), digest(admin))
    replaced = tempo.labels.replace(label.id[:16], ["b", "c"])
    assert (replaced.id, replaced.split, replaced.verifier) == (label.id, "held_out", "exact")
    assert replaced.reference_answer == ["b", "c"]
    assert (splits(tempo), digest(admin)) == (before[0], digest(admin))
    assert digest(admin) != before[1]
    number = tempo.labels.replace(label.id, 7, verifier="numeric")
    assert (number.reference_answer, number.verifier) == (["7"], "numeric")


def test_the_answer_of_a_choice_may_be_replaced_by_the_text_of_an_option(tempo: Tempo) -> None:
    row = {"options": ["pea", "plum"], "verifier": "choice"}
    tempo.files.create(b"".join(line(n, "A", **row) for n in range(8)))
    label = tempo.labels.list(held_out=True)[0]
    replaced = tempo.labels.replace(label.id, "plum")
    assert replaced.reference_answer == ["B"]
    assert (replaced.messages, replaced.metadata) == (label.messages, label.metadata)


@pytest.mark.parametrize(
    ("answer", "verifier", "message"),
    [
        ("", None, 'reference_answer: "": an empty answer; write one'),
        ([["a"]], None, "an answer is a text, a number"),
        ("many", "numeric", "correct it or name another verifier"),
        ("x", "none", 'verifier: "none": no such verifier'),
    ],
)
def test_an_answer_that_its_verifier_cannot_read_is_refused(
    answer: Any, verifier: str | None, message: str, tempo: Tempo
) -> None:
    tempo.files.create(lines(*range(8)))
    label = tempo.labels.list(held_out=True)[0]
    with pytest.raises(tempo_client.BadRequestError, match=message):
        tempo.labels.replace(label.id, answer, verifier=verifier)
    assert tempo.labels.list(held_out=True)[0] == label


def test_a_file_with_a_removed_label_or_an_old_answer_is_not_taken_for_the_stored_one(
    tempo: Tempo,
) -> None:
    content = lines(*range(10))
    first = tempo.files.create(content)
    label = tempo.labels.list(held_out=True)[0]
    tempo.labels.remove(label.id)
    with pytest.raises(tempo_client.NotFoundError, match="no label"):
        tempo.labels.remove(label.id)
    again = tempo.files.create(content)
    assert (again.id == first.id, again.examples, again.duplicates) == (False, 1, 9)
    tempo.labels.replace(label.id, "b")
    with pytest.raises(tempo_client.BadRequestError) as refusal:
        tempo.files.create(content)
    assert f"tempo labels replace {label.id[:12]}" in str(refusal.value)


def test_an_exported_file_is_read_as_the_same_labels(admin: Any, tempo: Tempo) -> None:
    rows = [row for row, *_ in ROWS.values()]
    content = [json.dumps(row).replace('"q"', f'"q {n}"') for n, row in enumerate(rows)]
    tempo.files.create("\n".join(content).encode())
    labels = tempo.labels.list(held_out=True)
    assert len(labels) == len(ROWS)
    exported = [label.line() for label in labels]
    for file in tempo.files.list():
        tempo.files.delete(file.id)
    assert tempo.labels.list(held_out=True) == []
    tempo.files.create(exported)
    assert tempo.labels.list(held_out=True) == labels


def test_labels_are_listed_page_by_page_by_split_and_file(admin: Any, tempo: Tempo) -> None:
    one = tempo.files.create(lines(*range(8)))
    tempo.files.create(lines(*range(4, 12)))
    every = tempo.labels.list(held_out=True)
    first = admin("GET", LABELS, params={"limit": 5, "held_out": True}).json()
    assert ([item["id"] for item in first["data"]], first["has_more"]) == (
        [label.id for label in every[:5]],
        True,
    )
    rest = admin(
        "GET", LABELS, params={"limit": 50, "held_out": True, "after": first["data"][-1]["id"]}
    ).json()
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (
        [label.id for label in every[5:]],
        False,
    )
    assert len(tempo.labels.list(held_out=True, file=one.id)) == 8
    held_out = [label for label in every if label.split == "held_out"]
    assert tempo.labels.list(held_out=True, split="held_out") == held_out
    assert admin("GET", LABELS, params={"split": "test"}).status_code == 400


def test_responses_are_verified_by_the_verifiers_of_their_labels(tempo: Tempo) -> None:
    tempo.files.create(lines(*range(7)) + line(7, "0.5", verifier="numeric"))
    number = next(
        label for label in tempo.labels.list(held_out=True) if label.verifier == "numeric"
    )
    text = next(label for label in tempo.labels.list(held_out=True) if label.verifier == "exact")
    answer = tempo.labels.verify({number.id: ["1/2", "1"], text.id: ["b", "a", "a"]}, held_out=True)
    assert answer.verdicts == {number.id: [True, False], text.id: [False, True, True]}
    with pytest.raises(tempo_client.NotFoundError):
        tempo.labels.verify({"none": ["a"]})


SHAPES = (
    *("AIME", "MATH-500", "Alpaca", "ShareGPT", "OpenAI fine-tuning", "OpenAI preferences"),
    *("SVAMP", "SQuAD", "TriviaQA", "BoolQ", "MedMCQA", "HellaSwag"),
)


def test_twelve_shapes_of_data_sets_are_uploaded_by_the_official_client_as_they_are_meant(
    admin: Any, address: str, tempo: Tempo, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples: list[Example] = []  # all references are checked at the end, by one process
    monkeypatch.setattr(references, "check", lambda new: examples.extend(new) or [])
    with openai.OpenAI(base_url=f"{address}/tempo/v1", api_key=admin.key) as client:
        for shape in SHAPES:
            row, question, reference, verifier = ROWS[shape]
            texts = [json.dumps(row).replace('"q"', f'"{shape} {n}"') for n in range(8)]
            if shape in ("SVAMP", "Alpaca"):
                texts = [text.replace("3", str(n + 3)) for n, text in enumerate(texts)]
            content = "\n".join(texts).encode()
            file = client.files.create(file=(f"{shape}.jsonl", content), purpose="fine-tune")
            labels = tempo.labels.list(held_out=True, file=file.id)
            assert [v["verifier"] for v in tempo.files.retrieve(file.id).verifiers] == [verifier]
            expected = {question.replace("q", f"{shape} {n}") for n in range(8)}
            if "q" in question:
                assert {label.messages[-1]["content"] for label in labels} == expected
            assert [label.reference_answer for label in labels] == [reference] * 8
            assert all(label.messages[:-1] == user(question)[:-1] for label in labels)
            assert client.files.content(file.id, extra_query={"held_out": "true"}).read() == content
            deleted = client.files.delete(file.id)
            assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
        assert list(client.files.list()) == []
    monkeypatch.undo()
    assert len(examples) == 8 * len(SHAPES)
    assert references.check(examples) == []
