"""`tempo labels check` on real vLLM: the served model's responses, real verifiers, no capture."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner
from waiting import eventually

from tempo_client import Tempo
from tempo_client.cli.commands import app
from tempo_lab.tasks import countdown

pytestmark = [pytest.mark.vllm, pytest.mark.service]


def test_a_check_verifies_the_served_model_s_responses_and_captures_no_question(
    server: Any, tempo: Tempo
) -> None:
    # Other tests of this server have labeled some puzzles, with other answers.
    stored = {label.messages[-1]["content"] for label in tempo.labels.list(held_out=True)}
    puzzles = [p.question for p in countdown.puzzles() if p.question not in stored]
    questions = puzzles[300:308]
    any_text = {"answer": "[\\s\\S]+", "verifier": "regex"}
    no_text = {"answer": "a text that the model never writes", "verifier": "exact"}
    rows = [
        {"question": question} | (any_text if n < 5 else no_text)
        for n, question in enumerate(questions)
    ]
    file = tempo.files.create(rows)
    before = tempo.status().questions
    options = ["-n", "2", "--max-tokens", "16", "--held-out", "--file", file.id, "--json"]
    result = CliRunner().invoke(app, ["labels", "check", *options], obj=server.admin)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["labels"], report["responses"], report["verifier failed"]) == (8, 16, 0)
    assert 0.4 < report["right"] <= 0.625  # an empty response matches no pattern
    assert report["all right"] >= 3
    assert report["all wrong"] >= 3
    assert result.stderr.count("no right response: ") == report["all wrong"]
    # The server counts a question after it has sent the answer.
    eventually(lambda: tempo.status().questions.opted_out == before.opted_out + 8)
    after = tempo.status().questions
    assert (after.captured, after.streamed) == (before.captured, before.streamed)
    assert tempo.files.delete(file.id).examples == 8
