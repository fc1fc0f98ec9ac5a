"""Which versions learned from a question: by id, by content, and after it is gone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.migrations import migrate
from tempo_storage.ledger.models import Adapter, Iteration, Job, Question
from tempo_storage.ledger.sessions import open_database
from tempo_storage.questions import content_hash

ANN, BOB, CAROL = "a" * 16, "b" * 16, "c" * 16


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    made = open_database(f"sqlite:///{tmp_path / 'tempo.db'}")
    with made.begin() as s:
        ask(s, "q1", "1+1", ANN)
        ask(s, "q2", "2+2", BOB)
        ask(s, "q3", "3+3", BOB)
        # v1 comes of a-1, v2 of its child b-1, v3 of another branch.
        iterate(s, "a-1", "", ["q1"], version=1)
        iterate(s, "b-1", "a-1", ["q2"], version=2)
        iterate(s, "c-1", "", ["q3"], version=3)
    yield made
    made.kw["bind"].dispose()


def ask(s: Session, id: str, asked: str, tenant: str) -> None:
    messages = [{"role": "user", "content": asked}]
    captured = {"id": id, "messages": messages, "tenant": tenant, "captured_at": float(id[1:])}
    ledger.questions.add(s, [captured])


def adapter(version: int, name: str) -> Adapter:
    """A candidate that came of the job and the checkpoint of that name."""
    row = Adapter(version=version, status="candidate", parent=0, job_id=name, sha256="")
    row.checkpoint, row.bytes = name, 0
    return row


def iterate(s: Session, name: str, parent: str, ids: list[str], *, version: int) -> None:
    row = Iteration(job_id=name, position=1, checkpoint=name, parent=parent, question_ids=ids)
    row.metrics, row.epoch = {"m_steps": 1}, 1
    s.add(row)
    s.flush()
    ledger.lineage.record(s, row.number, [s.get_one(Question, id) for id in ids])
    s.add(adapter(version, name))
    s.flush()


def test_a_version_learned_from_all_the_m_steps_that_led_to_it(
    sessions: sessionmaker[Session],
) -> None:
    with sessions() as s:
        assert ledger.lineage.question_ids(s, "a-1") == ["q1"]
        assert ledger.lineage.question_ids(s, "b-1") == ["q1", "q2"]
        assert ledger.lineage.question_ids(s, "c-1") == ["q3"]
        assert ledger.lineage.question_ids(s, "") == []


def test_a_question_that_one_m_step_drew_twice_is_noted_once(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        iterate(s, "d-1", "c-1", ["q1", "q2", "q1"], version=4)
    with sessions() as s:
        assert ledger.lineage.question_ids(s, "d-1") == ["q1", "q2", "q3"]


def test_what_learned_from_a_question_is_known_by_id_hash_and_text_also_when_it_is_pruned(
    sessions: sessionmaker[Session],
) -> None:
    hashed = content_hash([{"role": "user", "content": "1+1"}])
    for keep in (3, 1):
        with sessions.begin() as s:
            ledger.pool.prune(s, keep)
        with sessions() as s:
            for question in ("q1", hashed, "What is 1+1?", "1+1"):
                known = [] if question == "What is 1+1?" else [1, 2]
                assert ledger.lineage.learned_from(s, question) == known
            assert ledger.lineage.learned_from(s, "q3") == [3]
            assert ledger.lineage.learned_from(s, "4+4") == []


def test_another_request_with_the_same_content_was_learned_from_too(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        ask(s, "q9", " 1+1 ", BOB)
        assert ledger.lineage.learned_from(s, "q9") == [1, 2]


def test_erasing_a_tenant_leaves_the_others_and_names_what_learned(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        ask(s, "q9", "3+3", ANN)
        assert ledger.lineage.erase(s, ANN) == (2, [1, 2, 3])
    with sessions.begin() as s:
        assert ledger.questions.count(s) == (2, 2)
        assert ledger.lineage.erase(s, ANN) == (0, [1, 2])  # its pruned questions taught as well
        assert [e.data["questions"] for e in ledger.events.find(s)] == [2, 0]


def test_what_was_erased_while_a_step_learned_from_it_is_known(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        drawn = s.get_one(Question, "q3")
        s.expunge(drawn)
        assert ledger.lineage.erase(s, BOB) == (2, [2, 3])
    with sessions.begin() as s:
        row = Iteration(job_id="d", position=1, checkpoint="d", question_ids=["q3"], epoch=1)
        row.metrics = {"m_steps": 1}
        s.add(row)
        s.flush()
        ledger.lineage.record(s, row.number, [drawn])
        s.add(adapter(4, "d"))
    with sessions.begin() as s:
        assert ledger.lineage.erase(s, BOB) == (0, [2, 3, 4])
        assert ledger.lineage.learned_from(s, "3+3") == [3, 4]


def test_each_tenant_that_asked_the_same_is_told_what_learned_from_it_however_often_it_asks(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        ask(s, "q8", "5+5", ANN)
        ask(s, "q9", "5+5", CAROL)
        iterate(s, "d-1", "", ["q8"], version=4)
    for erased in (1, 0):
        with sessions.begin() as s:
            assert ledger.lineage.erase(s, CAROL) == (erased, [4])


def test_a_ledger_from_before_is_brought_up_to_date(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'old.db'}")
    migrate(engine)
    with Session(engine) as s, s.begin():
        ask(s, "q1", "1+1", ANN)
        iterate(s, "a-1", "", ["q1"], version=1)
        iterate(s, "a-2", "", [], version=2)
        for change in (
            "DROP TABLE learned_questions",
            "ALTER TABLE iterations DROP COLUMN parent",
            "ALTER TABLE adapters DROP COLUMN lineage",
            "ALTER TABLE jobs DROP COLUMN serving_sequence",
            "DELETE FROM migrations WHERE name != 'm001_initial'",
            "UPDATE iterations SET question_ids = '[\"q1\", \"pruned\"]' WHERE job_id = 'a-1'",
        ):
            s.execute(text(change))
    assert migrate(engine) == ["m002_lineage", "m003_serving_sequence"]
    with Session(engine) as s:
        assert ledger.lineage.learned_from(s, "1+1") == [1, 2]
        assert ledger.lineage.learned_from(s, "pruned") == [1, 2]
        assert s.scalar(select(Job.serving_sequence)) is None
        assert s.get_one(Adapter, 1).lineage == {}
    engine.dispose()
