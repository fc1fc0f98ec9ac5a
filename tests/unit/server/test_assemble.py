"""The parts of a process: the sampling that vLLM uses by default, and an unmeasured start."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from tempo_server.assemble import default_decoding, unmeasured, warm_up
from tempo_storage.decoding import PLAIN, Decoding


def model_config(**parameters: Any) -> Any:
    """Return a stand-in for vLLM's configuration of a model with these default parameters."""
    return SimpleNamespace(get_diff_sampling_param=lambda: parameters)


@pytest.mark.parametrize(
    ("parameters", "decoding"),
    [
        ({}, PLAIN),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20}, Decoding(0.6, 0.95, 20)),
        ({"temperature": 0.0}, Decoding(0.0, 1.0, 0)),
        ({"top_k": -1, "repetition_penalty": 1.1}, PLAIN),
        ({"max_tokens": 8}, Decoding(max_tokens=8)),
    ],
)
def test_the_defaults_are_those_of_the_model_and_else_vllms_own(
    parameters: dict[str, Any], decoding: Decoding
) -> None:
    assert default_decoding(model_config(**parameters)) == decoding


def test_the_defaults_follow_vllms_reading_of_the_generation_config(tmp_path: Any) -> None:
    config = pytest.importorskip("vllm.config.model")
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20}')
    model = config.ModelConfig.__new__(config.ModelConfig)
    model.generation_config = str(tmp_path)
    model.override_generation_config = {"top_p": 0.9}
    assert default_decoding(model) == Decoding(0.6, 0.9, 20)
    model.generation_config = "vllm"
    assert default_decoding(model) == Decoding(1.0, 0.9, 0)


class FakeEngine:
    """Records a request in its statistics as vLLM does: by the loggers of that moment."""

    def __init__(self) -> None:
        self.recorded: list[str] = []
        self.logger_manager = SimpleNamespace(stat_loggers=[self.recorded.append])

    async def generate(self, prompt: Any, sampling: Any, request_id: str) -> AsyncIterator[None]:
        for record in self.logger_manager.stat_loggers:
            record(request_id)
        yield


def test_the_requests_of_the_start_do_not_count_in_vllms_metrics() -> None:
    engine = FakeEngine()
    with unmeasured(engine):
        asyncio.run(warm_up(engine))
    assert engine.recorded == []
    asyncio.run(warm_up(engine))
    assert len(engine.recorded) == 2


def test_a_server_without_statistics_starts_all_the_same() -> None:
    with unmeasured(SimpleNamespace(logger_manager=None)):
        pass
