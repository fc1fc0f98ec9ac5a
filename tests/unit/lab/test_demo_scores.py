"""The demonstration's scores: greedy, at the users' temperature and at 1, in one readable table."""

from collections import Counter
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tempo_lab.demo import run as demo
from tempo_lab.demo.run import control_verdict, table
from tempo_lab.demo.users import ask
from tempo_lab.rows import read
from tempo_lab.serving.scores import Scores, means, measure
from tempo_lab.tasks import countdown

PUZZLES = countdown.split(0).unlabeled[:2]
RIGHT = [f"{countdown.solutions(puzzle)[0].text} ; ok" for puzzle in PUZZLES]
WRONG = "1 + 1 = 2 ; 2 + 1 = 3 ; ok"


class Client:
    """A fake of the openai client that gives each question its own share of right responses."""

    def __init__(self, right: dict[tuple[int, float], int]) -> None:
        self.right = right
        """Right responses by question and temperature; the others are wrong."""
        self.requests: list[dict[str, Any]] = []
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))

    def create(self, *, messages: Any, temperature: float, n: int = 1, **fields: Any) -> Any:
        self.requests.append({"temperature": temperature, "n": n} | fields)
        index = [puzzle.question for puzzle in PUZZLES].index(messages[0]["content"])
        count = self.right.get((index, temperature), 0)
        texts = [RIGHT[index]] * count + [WRONG] * (n - count)
        choices = [SimpleNamespace(message=SimpleNamespace(content=text)) for text in texts]
        return SimpleNamespace(choices=choices)


def test_a_score_is_greedy_at_the_users_temperature_and_at_1() -> None:
    client = Client({(0, 0.0): 1, (0, 0.6): 16, (1, 0.6): 4, (0, 1.0): 9, (1, 1.0): 1})
    scores = measure(client, "tempo", PUZZLES, max_tokens=16)
    assert {name: values.tolist() for name, values in scores.items()} == {
        "greedy": [1, 0],
        "users": [1, 4 / 16],
        "plain": [9 / 16, 1 / 16],
        "majority": [1, 0],
        "pass8": pytest.approx([1, 0.5]),  # 1 − C(15, 8) / C(16, 8) = .5
    }
    assert means(scores)["users"] == 20 / 32


def test_a_score_costs_33_responses_to_each_question_and_captures_none() -> None:
    client = Client({})
    measure(client, "tempo-v0", PUZZLES, max_tokens=16)
    counts = Counter((request["temperature"], request["n"]) for request in client.requests)
    assert counts == {(0.0, 1): 2, (0.6, 16): 2, (1.0, 16): 2}
    assert {request["model"] for request in client.requests} == {"tempo-v0"}
    assert {request["max_tokens"] for request in client.requests} == {16}
    assert all(r["extra_headers"] == {"X-Tempo-Opt-Out": "1"} for r in client.requests)


def test_users_say_their_temperature_in_their_requests() -> None:
    client = Client({})
    ask(client, PUZZLES[0], stream=False)
    (request,) = client.requests
    assert request["temperature"] == 0.6
    assert request["extra_headers"] == {}


def scores(**values: float) -> Scores:
    """Return the scores of two questions, whose means these are."""
    return {name: np.array([value - 0.05, value + 0.05]) for name, value in values.items()}


BASE = scores(greedy=0.3, users=0.25, plain=0.2, majority=0.35, pass8=0.9)
SERVED = scores(greedy=0.5, users=0.45, plain=0.4, majority=0.55, pass8=0.85)
BEFORE = {"adapted": BASE, "unseen": BASE}
AFTER = {"adapted": SERVED, "unseen": BASE}


def test_the_table_shows_each_measure_of_base_and_served_version_in_100_columns() -> None:
    file = StringIO()
    Console(file=file, width=100).print(table(BEFORE, AFTER))
    lines = [" ".join(line.replace("│", " ").split()) for line in file.getvalue().splitlines()]
    assert "adapted greedy 0.300 0.500 +20.0" in lines
    assert "adapted at the users' temperature, 0.6 0.250 0.450 +20.0" in lines
    assert "adapted at temperature 1 0.200 0.400 +20.0" in lines
    assert "adapted majority@16, at temperature 1 0.350 0.550 +20.0" in lines
    assert "adapted pass@8, at temperature 1 0.900 0.850 -5.0" in lines
    assert "adapted each at the best of these temperatures 0.300 0.500 +20.0" in lines
    assert "unseen greedy 0.300 0.300 +0.0" in lines
    assert max(map(len, file.getvalue().splitlines())) <= 100


def result(promoted: list[bool]) -> dict[str, Any]:
    """Return the result of a run whose rounds promoted their candidates or not."""
    decisions = ["promoted" if is_promoted else "rejected" for is_promoted in promoted]
    jobs = [SimpleNamespace(mode="round", result={"decision": d}) for d in decisions]
    status = SimpleNamespace(serving_adapter="tempo-v1", questions=SimpleNamespace(captured=0))
    tempo = SimpleNamespace(status=lambda: status)
    users = SimpleNamespace(requests=0, errors=[], answers=[])
    return demo._result(tempo, jobs, users, BEFORE, AFTER, [])


def test_the_result_holds_every_score() -> None:
    sets = result([True])["scores"]
    assert sets["adapted"]["served"] == {
        "greedy": 0.5,
        "users": 0.45,
        "plain": 0.4,
        "majority": 0.55,
        "pass8": 0.85,
    }
    assert sets.keys() == {"adapted", "unseen"}
    assert sets["unseen"].keys() == {"base", "served"}


def test_a_control_run_says_whether_anything_was_promoted() -> None:
    assert control_verdict(result([False])["promotions"]) == "nothing was promoted, as it must be"
    failure = control_verdict(result([False, True])["promotions"])
    assert failure.startswith("FAILED: 1 promoted, although")


def test_the_demonstration_leaves_the_gate_its_default_number_of_responses() -> None:
    assert not [name for name in demo.ENVIRONMENT if name.startswith("TEMPO_GATE")]


def test_a_result_is_kept_as_a_row_with_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "run", lambda _: {"promotions": 1})
    assert demo.main(["--seed", "2", "--kept", str(tmp_path)]) == 0
    assert demo.main(["--seed", "2"]) == 0  # an operator's own run keeps nothing
    (row,) = read(tmp_path / "demo.jsonl")
    assert (row["seed"], row["flip_reward"], row["promotions"]) == (2, False, 1)
    assert row["minutes"] == 0
    assert row["commit"]
