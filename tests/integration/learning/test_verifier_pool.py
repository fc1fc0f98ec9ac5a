"""Verifiers in real child processes: one that hangs is killed and costs only its own verdict."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import install, is_alive
from waiting import eventually

from tempo_lab.tasks import countdown
from tempo_trainer.sampling.verifier_pool import Item, VerifierError, VerifierPool

PLUGIN = """
import contextlib, os, signal
from tempo_trainer.sampling.verifiers import Verdict

class Odd:
    name = "odd"
    def check_reference(self, reference):
        return None
    def verify(self, response, reference, metadata):
        if response == "exit":
            os._exit(3)
        if response == "raise":
            raise ValueError("odd " * 100)
        if response == "hang":
            9 ** 9 ** 9 ** 9  # Python's own timers do not run in the middle of it
        if response == "garble":
            for number in range(3, 12):
                with contextlib.suppress(OSError):
                    os.write(number, b"[1]\\n")
        if response == "fill":
            bytearray(3 << 30)
        print("chatter")
        return Verdict(response == "1", response)

class Hasty(Odd):
    name = "hasty"
    timeout_seconds = 0.5
"""


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(["math", "countdown"]) as opened:
        yield opened


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VerifierPool]:
    """A pool with an operator's own verifier, installed under tmp_path."""
    entry_points = "[tempo.verifiers]\nodd = odd_verifier:Odd\nhasty = odd_verifier:Hasty\n"
    install(tmp_path, "odd_verifier", PLUGIN, entry_points=entry_points)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with VerifierPool(["odd", "hasty"]) as opened:
        yield opened


def custom(response: str) -> Item:
    return Item("odd", response, ["1"], {})


@pytest.mark.fault(
    18, "a verifier hangs", promise="it costs one verdict; the other verdicts arrive"
)
def test_a_response_that_hangs_costs_one_verdict(odd: VerifierPool) -> None:
    verdicts = odd.verify([custom(text) for text in ("1", "hang", "1")])
    assert [(v.correct, v.reason) for v in verdicts] == [(True, ""), (False, "timeout"), (True, "")]
    assert [v.failed for v in verdicts] == [False, True, False]


@pytest.mark.attack(
    "learning",
    "a verifier whose reply is no verdict",
    promise="it costs one verdict; the next response is verified",
)
def test_a_reply_that_is_no_verdict_costs_one_verdict(
    odd: VerifierPool, seen: Callable[[object], None]
) -> None:
    verdicts = odd.verify([custom(text) for text in ("garble", "1")])
    assert [(v.correct, v.failed) for v in verdicts] == [(False, True), (True, False)]
    seen(f"correct: {[v.correct for v in verdicts]}, failed: {[v.failed for v in verdicts]}")


def test_a_verifier_may_have_a_time_out_of_its_own(odd: VerifierPool) -> None:
    def seconds(verifier: str) -> float:
        start = time.monotonic()
        assert odd.verify([Item(verifier, "hang", ["1"], {})])[0].reason == "timeout"
        return time.monotonic() - start

    assert seconds("hasty") < 1.5 < seconds("odd")


def test_a_response_with_the_text_of_the_reference_needs_no_process() -> None:
    with VerifierPool(["math"]) as closed:
        closed.close()
        [verdict] = closed.verify([Item("math", r"\boxed{9^{9^{9}}}", ["9^{9^{9}}"], {})])
    assert verdict.correct


def test_four_hundred_responses_are_verified_within_a_second(pool: VerifierPool) -> None:
    puzzles = countdown.puzzles()[:400]
    texts = [countdown.solutions(puzzle)[0].text for puzzle in puzzles]
    items = [Item("countdown", f"{text} ; ok", [text], {}) for text in texts]
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        assert all(verdict.correct for verdict in pool.verify(items))
        seconds.append(time.monotonic() - start)
    assert min(seconds) < 1.0  # 0.1 s on an idle core; the least, because other work may run beside


def test_verdicts_come_in_the_order_of_the_items() -> None:
    with VerifierPool(["exact"], size=2) as two:
        items = [Item("exact", str(n), ["even" if n % 2 else str(n)], {}) for n in range(50)]
        verdicts = two.verify(items)
    assert [v.extracted for v in verdicts] == [str(n) for n in range(50)]
    assert [v.correct for v in verdicts] == [n % 2 == 0 for n in range(50)]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [("exit", "timeout"), ("raise", "ValueError"), ("fill", "MemoryError")],
)
@pytest.mark.attack(
    "learning",
    "a verifier that exits, raises or fills the memory",
    promise="it costs one verdict; the next response is verified",
)
def test_a_verifier_that_fails_costs_its_own_verdict_only(
    odd: VerifierPool, failure: str, reason: str, seen: Callable[[object], None]
) -> None:
    failed, good = odd.verify([custom(failure), custom("1")])
    assert not failed.correct
    assert failed.reason.startswith(reason)
    assert len(failed.reason) <= 200
    assert (failed.failed, good.failed) == (True, False)
    assert good.correct
    seen(f"{failure}: {failed.reason[:20]}, then correct: {good.correct}")


def test_text_that_a_verifier_prints_is_not_taken_for_a_verdict(odd: VerifierPool) -> None:
    assert [v.extracted for v in odd.verify([custom("1"), custom("2")])] == ["1", "2"]


def test_the_pool_refuses_to_start_with_an_unknown_verifier_and_names_it() -> None:
    with pytest.raises(VerifierError, match=r"serve nope`$"):
        VerifierPool(["nope"], size=2)


def test_an_item_with_an_unknown_verifier_gets_a_verdict_that_names_it(pool: VerifierPool) -> None:
    [verdict] = pool.verify([Item("nope", "1", ["1"], {})])
    assert "no verifier 'nope'" in verdict.reason


def test_children_end_with_the_process_that_started_them() -> None:
    script = (
        "from tempo_trainer.sampling.verifier_pool import VerifierPool;import time;"
        "pool = VerifierPool(['exact']);"
        "print(pool._children[0]._process.pid, flush=True);time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: not is_alive(child), seconds=10)


def test_a_child_that_hangs_ends_by_itself_when_no_process_is_left_to_kill_it(
    odd: VerifierPool,
) -> None:
    script = (
        "from tempo_trainer.sampling import verifiers;"
        "verifiers.ORPHAN_SECONDS = 1;"
        "verifiers.main(['serve', 'odd'])"
    )
    line = {"verifier": "odd", "response": "hang", "reference": ["1"], "metadata": {}}
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(line) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("ready\n", -signal.SIGALRM)


def test_a_check_of_references_answers_each_line_with_its_number() -> None:
    lines = [
        {"line": 1, "verifier": "countdown", "reference": ["3 + 2 = 5 ; 5 * 4 = 20"]},
        {"line": 4, "verifier": "countdown", "reference": ["3 + 2 = 6 ; 6 * 4 = 24"]},
        {"line": 9, "verifier": "nope", "reference": ["1"]},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tempo_trainer.sampling.verifiers", "check"],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reply["line"] for reply in replies] == [1, 4, 9]
    assert replies[0]["error"] is None
    assert "3 + 2 is not 6" in replies[1]["error"]
    assert "no verifier 'nope'" in replies[2]["error"]
