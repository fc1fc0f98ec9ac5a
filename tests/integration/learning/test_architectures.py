"""Families of models other than the demonstration's Qwen3 train and serve."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from rounds import finished, upload
from traffic import ask
from transformers import AutoModelForCausalLM, LlamaConfig, Olmo3Config
from waiting import eventually

from tempo_client import Tempo
from tempo_lab.tasks import countdown
from tempo_lab.tasks.base import BOS, EOS, PAD, Recipe, fast_tokenizer

pytestmark = [pytest.mark.service, pytest.mark.vllm]

VOCABULARY = Recipe().vocabulary
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, num_key_value_heads=1, tie_word_embeddings=True),
    "olmo3": Olmo3Config(**SIZES, num_key_value_heads=2, sliding_window=32),
}
SPLIT = countdown.split(11, labeled=60, unlabeled=8, unseen=0)
StartWorker = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture(params=sorted(CONFIGS))
def server(request: Any, serve: Any, tmp_path: Path) -> Iterator[Any]:
    """A server of a random model, in place of the session's."""
    torch.manual_seed(0)
    directory = tmp_path / "model"
    AutoModelForCausalLM.from_config(CONFIGS[request.param]).save_pretrained(directory)
    fast_tokenizer(VOCABULARY).save_pretrained(directory)
    (data_dir := tmp_path / "data").mkdir()
    compiled = request.param == "llama"  # as `tempo serve` does; one is enough, for its time
    env = {"TORCH_COMPILE_DISABLE": "0" if compiled else "1"}
    with serve(directory, data_dir, env=env) as running:
        assert ("Warming up model for the compilation" in running.log) is compiled
        yield running


def test_a_family_s_adapter_is_trained_promoted_and_passes_its_probe(
    server: Any, tempo: Tempo, worker: StartWorker
) -> None:
    for puzzle in SPLIT.unlabeled:
        ask(server, puzzle.question)
    with worker(TEMPO_POLICY_LEARNING_RATE="0.02"):
        upload(tempo, SPLIT.labeled)
        eventually(lambda: tempo.status().questions.captured >= len(SPLIT.unlabeled))
        job = finished(tempo, tempo.jobs.create("round", max_steps=3))
        assert job.status == "succeeded", job.error
        adapter = tempo.adapters.retrieve(job.result["adapter"])
        assert tempo.status().serving_adapter == adapter.id
    probe = adapter.report["probe"]
    assert (probe["verdict"], probe["tokens"] >= 32) == ("passed", True), probe
