"""No tenant takes the place of others, whatever it claims and however much it asks."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from attackers import (
    LIMIT,
    POOL,
    PROXY,
    TENANT_HEADER,
    USERS_KEY,
    HonestUser,
    chat,
    counted,
    stored,
)
from ledgers import captured
from traffic import CHAT
from waiting import eventually

from tempo_server.capture.tenants import id_of
from tempo_storage import ledger

pytestmark = [pytest.mark.vllm, pytest.mark.service]
Seen = Callable[[object], None]

OF_THE_KEY = id_of(f"Bearer {USERS_KEY}")
FLOOD = 420
CLAIMS = (
    {TENANT_HEADER: "honest"},
    {TENANT_HEADER.lower(): "honest", "Forwarded": f"for={PROXY}"},
    {"X-Forwarded-For": PROXY},
    {"X-Forwarded-For": f"{PROXY}, 127.0.0.1", "X-Real-IP": PROXY, TENANT_HEADER: "honest"},
    {"X-Api-Key": "sk-invented"},
    {"OpenAI-Organization": "honest", "OpenAI-Project": "honest"},
)


@pytest.mark.attack(
    "fair share",
    "a client that is no proxy claims a tenant, an address or another key",
    promise="its questions are those of the key that it sent",
)
@pytest.mark.parametrize("number", range(len(CLAIMS)))
def test_a_claim_of_an_untrusted_client_names_no_tenant(
    stack: Any, honest: HonestUser, seen: Seen, number: int
) -> None:
    text = f"a claim of the kind {number}"
    reply = stack.http.post(CHAT, json=chat(text, user="honest"), headers=CLAIMS[number])
    assert reply.status_code == 200, reply.text
    honest.seconds_until_stored()
    (row,) = eventually(lambda: stored(stack, text), seconds=10)
    assert row.tenant == OF_THE_KEY
    seen(f"{' and '.join(CLAIMS[number])}: the key's tenant")


def ask_flood(stack: Any) -> Counter[int]:
    """Ask 420 questions as 50 users whom nobody knows; return the statuses."""

    def ask(number: int) -> int:
        user = f"invented-{number % 50}"
        claims = {
            TENANT_HEADER: user,
            "X-Api-Key": user,
            "X-Forwarded-For": f"10.0.0.{number % 50}",
        }
        body = chat(f"flood {number}", user=user)
        return int(stack.http.post(CHAT, json=body, headers=claims).status_code)

    with ThreadPoolExecutor(8) as threads:
        return Counter(threads.map(ask, range(FLOOD)))


@pytest.mark.attack(
    "fair share",
    "420 questions under 50 invented names",
    promise="all are answered; they fill at most a quarter of the pool, and displace nobody",
)
@pytest.mark.attack(
    "fair share",
    "420 questions of one tenant within a minute, at a limit of 300",
    promise="all are answered; those beyond the limit are counted and not kept",
)
def test_a_flood_displaces_nobody(stack: Any, seen: Seen) -> None:
    users = [HonestUser(stack, name) for name in ("ann", "ben", "cem", "dan")]
    for number in range(10):
        for name, user in zip("abcd", users, strict=True):
            user.ask(f"honest {name} {number}")
    eventually(lambda: len(stored(stack, "honest ")) >= 40, seconds=30)
    before = counted(stack, "over_limit")
    start = time.monotonic()
    codes = ask_flood(stack)
    allowed = LIMIT * (1 + (time.monotonic() - start) / 60) + 1
    eventually(lambda: stack.stream.backlog() == 0, seconds=30)
    eventually(lambda: counted(stack, "over_limit") - before >= FLOOD - allowed, seconds=10)
    over = counted(stack, "over_limit") - before
    with stack.sessions() as s:
        held = ledger.tenants.held(s)
    kept = sum(len(stored(stack, f"honest {name} ")) for name in "abcd")
    for user in users:
        user.close()
    seen(
        f"{codes[200]} answered, {over} over the limit; the flood holds {held[OF_THE_KEY]} of "
        f"{POOL} places; {kept} of 40 honest questions stayed"
    )
    assert codes == {200: FLOOD}
    assert held[OF_THE_KEY] <= POOL // 4
    assert kept == 40


DRESSES = (
    "{}",
    "please {}",
    "{} please",
    "Hi, {}?",
    "  {}  ",
    "can you tell me {}???",
    "“{}”",
    "{}!",
)


@pytest.mark.attack(
    "fair share",
    "one question in 200 dresses, and with an id of its own each time",
    promise="it counts once in the pool",
)
def test_one_question_in_many_dresses_counts_once(
    stack: Any, honest: HonestUser, seen: Seen
) -> None:
    with stack.sessions() as s:
        before = ledger.pool.count(s)[1]
    entries = [
        captured(f"q_dress_{n}", DRESSES[n % 8].format("what is seven times nine"), tenant="d" * 16)
        for n in range(200)
    ]
    stack.stream.append(entries)
    honest.seconds_until_stored()
    with stack.sessions() as s:
        rows, distinct = ledger.pool.count(s)
        held = ledger.tenants.held(s)["d" * 16]
    seen(f"200 entries hold {held} place of the pool, which has {distinct} of {rows} rows")
    assert held == 1
    assert distinct <= before + 2
