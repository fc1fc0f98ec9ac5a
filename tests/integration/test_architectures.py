"""Other families of models than the demonstration's Qwen3 train and serve."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from small import labeled_row
from transformers import AutoModelForCausalLM, LlamaConfig, Olmo3Config

from tempo_client import Tempo
from tempo_lab.tasks import countdown
from tempo_lab.tasks.base import BOS, EOS, PAD, SPECIAL, fast_tokenizer

pytestmark = [pytest.mark.service, pytest.mark.vllm]

VOCABULARY = (*SPECIAL, *countdown.WORDS)
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
    model, directory = AutoModelForCausalLM.from_config(CONFIGS[request.param]), tmp_path / "model"
    model.save_pretrained(directory)
    fast_tokenizer(VOCABULARY).save_pretrained(directory)
    (data_dir := tmp_path / "data").mkdir()
    compiled = request.param == "llama"  # as `tempo serve` does; one is enough, for its time
    env = {"TORCH_COMPILE_DISABLE": "0" if compiled else "1"}
    with serve(directory, data_dir, env=env) as running:
        assert ("Warming up model for the compilation" in running.log) is compiled
        yield running


def test_what_it_learned_is_what_vllm_serves(server: Any, worker: StartWorker) -> None:
    for puzzle in SPLIT.unlabeled:
        server.client.chat.completions.create(
            model="tempo", messages=[{"role": "user", "content": puzzle.question}], max_tokens=4
        )
    with (
        Tempo(base_url=server.base_url, api_key=server.admin_key) as tempo,
        worker(TEMPO_POLICY_LEARNING_RATE="0.02"),
    ):
        tempo.files.create(map(labeled_row, SPLIT.labeled))
        while tempo.status().questions.captured < len(SPLIT.unlabeled):
            time.sleep(0.2)
        job = tempo.jobs.wait(tempo.jobs.create("round", max_steps=3).id, timeout=180)
        adapter = tempo.adapters.retrieve(job.result["adapter"])
        assert tempo.status().serving_adapter == adapter.id
    probe = adapter.report["probe"]
    assert (probe["verdict"], probe["tokens"] >= 32) == ("passed", True), probe
