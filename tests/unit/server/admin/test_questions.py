"""The questions' routes: the versions that learned from a question, and erasing a tenant's."""

from typing import Any

from ledgers import captured, iteration

from tempo_storage import ledger
from tempo_storage.ledger.models import Question

TENANT = "a" * 16
QUESTIONS = "/tempo/v1/questions"


def learn(admin: Any) -> None:
    """Let version 1 learn from 1+1."""
    admin.publish(1)
    with admin.context.sessions.begin() as s:
        ledger.pool.add(s, [captured("q_1", "1+1", tenant=TENANT)])
        row = iteration("j", 1, question_ids=["q_1"])
        s.add(row)
        s.flush()
        ledger.learned.record(s, row.number, [s.get_one(Question, "q_1")])
        ledger.versions.adapter(s, 1).checkpoint = row.checkpoint


def test_a_version_shows_its_questions_and_a_question_the_versions_that_learned_from_it(
    admin: Any,
) -> None:
    learn(admin)
    assert admin("GET", "/tempo/v1/adapters/tempo-v1").json()["question_ids"] == ["q_1"]
    assert admin("GET", "/tempo/v1/adapters").json()["data"][0]["question_ids"] == []
    for question, adapters in (("q_1", ["tempo-v1"]), (" 1+1 ", ["tempo-v1"]), ("2+2", [])):
        reply = admin("POST", f"{QUESTIONS}/learned", json={"question": question})
        learned = reply.json()
        assert (learned["object"], learned["adapters"]) == ("learned", adapters)
        assert (learned["erased"], learned["remains"], learned["rollback_to"]) == (0, [], None)


def test_erasing_takes_only_the_hash_of_a_tenant(admin: Any) -> None:
    learn(admin)
    for tenant in ("", "%", "sk-secret"):
        assert admin("DELETE", QUESTIONS, params={"tenant": tenant}).status_code == 400
    assert admin("DELETE", QUESTIONS).status_code == 400
    reply = admin("DELETE", QUESTIONS, params={"tenant": TENANT}).json()
    assert (reply["erased"], reply["adapters"]) == (1, ["tempo-v1"])
    assert reply["rollback_to"] is None  # the base serves
    assert ["Valkey" in place for place in reply["remains"]] == [True]  # none runs in this test
    assert admin("GET", "/tempo/v1/status").json()["questions"]["captured"] == 0


def test_while_a_version_that_learned_serves_another_one_is_offered(admin: Any) -> None:
    learn(admin)
    assert admin("POST", "/tempo/v1/adapters/tempo-v1/promote").status_code == 200
    reply = admin("DELETE", QUESTIONS, params={"tenant": TENANT}).json()
    assert (reply["adapters"], reply["rollback_to"]) == (["tempo-v1"], "tempo-v0")


def test_the_tenants_are_listed_with_their_numbers_of_questions(admin: Any) -> None:
    with admin.context.sessions.begin() as s:
        rows = [captured(f"q_{n}", f"{n}+1", tenant="b" * 16) for n in range(2)]
        rows.append(captured("q_9", "9+9", tenant=TENANT))
        rows.append(captured("q_h", "0+0", tenant=""))
        ledger.pool.add(s, rows)
    page = admin("GET", f"{QUESTIONS}/tenants", params={"limit": 1}).json()
    assert (page["data"][0]["id"], page["data"][0]["questions"]) == ("b" * 16, 2)
    assert (page["has_more"], page["data"][0]["quarantined"]) == (True, False)
    later = {"after": "b" * 16}
    rows = admin("GET", f"{QUESTIONS}/tenants", params=later).json()["data"]
    assert {row["id"]: row["questions"] for row in rows} == {TENANT: 1, "anonymous": 1}


def test_the_questions_of_the_anonymous_tenant_can_be_erased(admin: Any) -> None:
    with admin.context.sessions.begin() as s:
        rows = [captured("q_1", "1+1", tenant=""), captured("q_2", "2+2", tenant=TENANT)]
        ledger.pool.add(s, rows)
    reply = admin("DELETE", QUESTIONS, params={"tenant": "anonymous"}).json()
    assert reply["erased"] == 1
    assert admin("GET", "/tempo/v1/status").json()["questions"]["captured"] == 1


def test_an_operator_admits_a_tenant_in_quarantine(admin: Any) -> None:
    with admin.context.sessions.begin() as s:
        ledger.pool.add(s, [captured("q_1", "1+1", tenant=TENANT)], quarantine=9)
        assert ledger.pool.size(s) == 0
    assert admin("GET", f"{QUESTIONS}/tenants").json()["data"][0]["quarantined"] is True
    reply = admin("POST", f"{QUESTIONS}/tenants/{TENANT}/admit").json()
    assert (reply["id"], reply["quarantined"]) == (TENANT, False)
    with admin.context.sessions() as s:
        assert ledger.pool.size(s) == 1
        assert ledger.events.find(s, newest_first=True)[0].type == "tenant.admitted"
    assert admin("POST", f"{QUESTIONS}/tenants/{'b' * 16}/admit").status_code == 404
    assert admin("POST", f"{QUESTIONS}/tenants/sk-secret/admit").status_code == 400
