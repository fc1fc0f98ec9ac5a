"""The versions that learned from a question: by its id, by its content, and after it is gone."""

from typing import Any

import pytest
from ledgers import candidate, captured, iteration
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import Iteration, Question
from tempo_storage.question_hash import loose_hash

ANN, BOB, CAROL = "a" * 16, "b" * 16, "c" * 16


@pytest.fixture
def sessions(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    """A ledger with three versions, and the questions that each learned from."""
    with sessions.begin() as s:
        ask(s, "q1", "1+1", ANN)
        ask(s, "q2", "2+2", BOB)
        ask(s, "q3", "3+3", BOB)
        # v1 comes of a-1, v2 of its child b-1, v3 of another branch.
        iterate(s, "a-1", "", ["q1"], version=1)
        iterate(s, "b-1", "a-1", ["q2"], version=2)
        iterate(s, "c-1", "", ["q3"], version=3)
    return sessions


def ask(s: Session, id: str, text: str, tenant: str) -> None:
    ledger.pool.add(s, [captured(id, text, tenant=tenant, captured_at=float(id[1:]))])


def iterate(s: Session, name: str, parent: str, ids: list[str], *, version: int) -> None:
    row = learned_iteration(name, ids, parent=parent)
    s.add(row)
    s.flush()
    ledger.learned.record(s, row.number, [s.get_one(Question, id) for id in ids])
    s.add(candidate(version, job_id=name, checkpoint=name))
    s.flush()


def learned_iteration(name: str, ids: list[str], **fields: Any) -> Iteration:
    """An iteration with an M-step, in a job and with a checkpoint of the same name."""
    metrics = {"m_steps": 1}
    return iteration(name, 1, checkpoint=name, question_ids=ids, metrics=metrics, **fields)


def test_a_version_learned_from_all_the_m_steps_that_led_to_it(
    sessions: sessionmaker[Session],
) -> None:
    with sessions() as s:
        assert ledger.learned.question_ids(s, "a-1") == ["q1"]
        assert ledger.learned.question_ids(s, "b-1") == ["q1", "q2"]
        assert ledger.learned.question_ids(s, "c-1") == ["q3"]
        assert ledger.learned.question_ids(s, "") == []


def test_a_question_that_one_m_step_drew_twice_is_recorded_once(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        iterate(s, "d-1", "c-1", ["q1", "q2", "q1"], version=4)
    with sessions() as s:
        assert ledger.learned.question_ids(s, "d-1") == ["q1", "q2", "q3"]


def test_the_versions_that_learned_from_a_question_stay_known_when_it_is_pruned(
    sessions: sessionmaker[Session],
) -> None:
    hashed = loose_hash([{"role": "user", "content": "1+1"}])
    for keep in (3, 1):
        with sessions.begin() as s:
            ledger.pool.prune(s, keep)
        with sessions() as s:
            for question in ("q1", hashed, "What is 1+1?", "1+1"):
                versions = [] if question == "What is 1+1?" else [1, 2]
                assert ledger.learned.versions_from(s, question) == versions
            assert ledger.learned.versions_from(s, "q3") == [3]
            assert ledger.learned.versions_from(s, "4+4") == []


def test_a_version_learned_from_every_request_with_the_same_content(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        ask(s, "q9", " 1+1 ", BOB)
        assert ledger.learned.versions_from(s, "q9") == [1, 2]


def test_erasing_a_tenant_leaves_the_others_and_names_the_versions_that_learned(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        ask(s, "q9", "3+3", ANN)
        assert ledger.learned.erase(s, ANN) == (2, [1, 2, 3])
    with sessions.begin() as s:
        assert ledger.pool.count(s) == (2, 2)
        assert ledger.learned.erase(s, ANN) == (0, [1, 2])  # its pruned questions taught as well
        assert [e.data["questions"] for e in ledger.events.find(s)] == [2, 0]


def test_a_question_that_is_erased_while_an_m_step_learns_from_it_stays_known(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        question = s.get_one(Question, "q3")
        s.expunge(question)
        assert ledger.learned.erase(s, BOB) == (2, [2, 3])
    with sessions.begin() as s:
        row = learned_iteration("d", ["q3"])
        s.add(row)
        s.flush()
        ledger.learned.record(s, row.number, [question])
        s.add(candidate(4, job_id="d", checkpoint="d"))
    with sessions.begin() as s:
        assert ledger.learned.erase(s, BOB) == (0, [2, 3, 4])
        assert ledger.learned.versions_from(s, "3+3") == [3, 4]


def test_erasing_names_the_versions_that_learned_the_question_from_another_tenant(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        ask(s, "q8", "5+5", ANN)
        ask(s, "q9", "5+5", CAROL)
        iterate(s, "d-1", "", ["q8"], version=4)
    for erased in (1, 0):
        with sessions.begin() as s:
            assert ledger.learned.erase(s, CAROL) == (erased, [4])
