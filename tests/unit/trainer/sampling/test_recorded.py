"""What was recorded is replayed; only what was not is asked of the server."""

import json
from pathlib import Path

import httpx
import pytest

from tempo_trainer.sampling.recorded import RecordedRollouts
from tempo_trainer.sampling.sampler import Prompt, Sample, Sampler, SamplingError
from tempo_trainer.worker_settings import WorkerSettings

SETTINGS = WorkerSettings(base_url="http://vllm", max_response_tokens=4, prompts_per_request=1)


class Server(httpx.MockTransport):
    """Answers with the seed and the prompt; counts the prompts."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.prompts: list[int] = []
        self.is_away = False

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return httpx.Response(200, text="")
        body = json.loads(request.content)
        [[asked]] = body["prompt"]
        if self.is_away:
            return httpx.Response(400, text="away")
        self.prompts.append(asked)
        choices = [
            {
                "index": index,
                "token_ids": [asked, index],
                "logprobs": {"token_logprobs": [-0.1, -1 / 3]},
                "text": f"{len(self.prompts)} é",
                "finish_reason": "stop",
            }
            for index in range(body["n"])
        ]
        return httpx.Response(200, json={"model": body["model"], "choices": choices})


def rollouts(directory: Path, server: Server) -> RecordedRollouts:
    return RecordedRollouts(directory, Sampler(SETTINGS, key="tk_x", transport=server))


def prompts(*numbers: int) -> list[Prompt]:
    return [Prompt(f"q{number}", (number,)) for number in numbers]


def test_another_sampler_replays_what_one_has_recorded(tmp_path: Path) -> None:
    server = Server()
    first = rollouts(tmp_path, server).sample(prompts(1, 2), adapter="tempo-t1", n=2, draw=5)
    server.is_away = True
    again = rollouts(tmp_path, server).sample(prompts(2, 1), adapter="tempo-t9", n=2, draw=5)
    assert again == first[::-1]
    assert sorted(server.prompts) == [1, 2]


def test_another_draw_is_sampled_afresh(tmp_path: Path) -> None:
    server = Server()
    recorded = rollouts(tmp_path, server)
    recorded.sample(prompts(1), adapter="tempo-t1", n=2, draw=5)
    for n, draw in ((2, 6), (3, 5)):
        recorded.sample(prompts(1), adapter="tempo-t1", n=n, draw=draw)
    assert server.prompts == [1, 1, 1]


def test_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    server = Server()
    recorded = rollouts(tmp_path, server)
    recorded.sample(prompts(1), adapter="tempo-t1", n=2, draw=5)
    both = recorded.sample(prompts(2, 1), adapter="tempo-t1", n=2, draw=5)
    assert server.prompts == [1, 2]
    assert [group[0].ids[0] for group in both] == [2, 1]


def test_a_draw_that_failed_is_not_recorded(tmp_path: Path) -> None:
    server = Server()
    server.is_away = True
    with pytest.raises(SamplingError):
        rollouts(tmp_path, server).sample(prompts(1), adapter="tempo-t1", n=2, draw=5)
    assert list(tmp_path.iterdir()) == []


def test_an_aborted_response_is_asked_for_again(tmp_path: Path) -> None:
    class Source:
        reason = "abort"

        def sample(self, asked: list[Prompt], **_: object) -> list[list[Sample]]:
            reasons = {"q1": "stop", "q2": self.reason}
            return [[Sample((1,), (0.0,), "4", reasons[p.question_id])] for p in asked]

    source = Source()
    recorded = RecordedRollouts(tmp_path, source)
    for reason in ("abort", "stop"):
        source.reason = reason
        groups = recorded.sample(prompts(1, 2), adapter="tempo-t1", n=1, draw=5)
        assert [group[0].finish_reason for group in groups] == ["stop", reason]
