"""The probe on real vLLM: an adapter passes when vLLM computes what PEFT computed, or it fails."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import WEIGHTS, quadruple_alpha
from peft import PeftModel
from safetensors.torch import load_file, save_file
from traffic import answering_version
from transformers import AutoModelForCausalLM, AutoTokenizer

from tempo_lab.tasks import countdown
from tempo_storage import ledger
from tempo_storage.adapters import version_name

pytestmark = [pytest.mark.vllm, pytest.mark.service]

PUZZLES = countdown.puzzles()[::450][:8]
PROBE_SECONDS = 10.0


def logprobs(model: Any, ids: list[int]) -> list[float]:
    """Return the log-probability of each id but the first, given those before it."""
    with torch.no_grad():
        table = model(input_ids=torch.tensor([ids])).logits.float().log_softmax(-1)[0, :-1]
    values: list[float] = table.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    return values


@pytest.fixture(scope="module")
def write_probe(tiny_base: Path) -> Callable[[Path], None]:
    """A function that writes the probe.json of the adapter in a directory."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)

    def write(directory: Path) -> None:
        base = AutoModelForCausalLM.from_pretrained(tiny_base)
        sequences = []
        for puzzle in PUZZLES:
            response = countdown.derivations(puzzle.numbers)[0].attempt(puzzle.target) + " <eos>"
            prompt = tokenizer("<bos> " + puzzle.question, add_special_tokens=False).input_ids
            answer = tokenizer(response, add_special_tokens=False).input_ids
            sequence = {"prompt": prompt, "response": answer}
            base_logprobs = logprobs(base, prompt + answer)[len(prompt) - 1 :]
            sequences.append(sequence | {"base": base_logprobs})
        policy = PeftModel.from_pretrained(base, str(directory))
        for sequence in sequences:
            ids = sequence["prompt"] + sequence["response"]
            sequence["policy"] = logprobs(policy, ids)[len(sequence["prompt"]) - 1 :]
        (directory / "probe.json").write_text(json.dumps({"sequences": sequences}))

    return write


def rename_layers(directory: Path) -> None:
    """Name layers that the base does not have; vLLM loads them without a message."""
    path = directory / WEIGHTS
    tensors = load_file(path)
    save_file({k.replace(".layers.", ".layers.9"): v for k, v in tensors.items()}, path)


@pytest.fixture(autouse=True)
def base_serves(server: Any) -> Iterator[None]:
    server.serve_base()
    yield
    server.serve_base()


def promote(server: Any, version: int) -> str | None:
    """Promote a version, wait until the server has probed it, and return why it is corrupt."""
    server.promote(version)
    with server.sessions() as s:
        reason: str | None = ledger.versions.adapter(s, version).report.get("corrupt")
    return reason


def shown(server: Any, version: int) -> tuple[str, dict[str, Any]]:
    """Return the status of a version and its probe's figures, as the API shows them."""
    headers = {"Authorization": f"Bearer {server.admin_key}"}
    reply = server.http.get(f"/tempo/v1/adapters/{version_name(version)}", headers=headers)
    adapter = reply.json()
    print(version_name(version), adapter["status"], adapter["report"].get("probe"))
    return adapter["status"], adapter["report"]["probe"]


@pytest.fixture
def proven(server: Any, make_version: Any, write_probe: Callable[[Path], None]) -> int:
    """A version that passed its probe, and serves."""
    version: int = make_version(seed=3, scale=0.15, then=write_probe)
    start = time.monotonic()
    assert promote(server, version) is None
    print(f"served after {time.monotonic() - start:.2f} s")
    assert time.monotonic() - start < PROBE_SECONDS
    return version


def test_a_version_that_is_served_as_trained_passes_and_its_figures_are_shown(
    server: Any, proven: int
) -> None:
    assert answering_version(server) == version_name(proven)
    _, probe = shown(server, proven)
    assert probe["verdict"] == "passed"
    assert probe["tokens"] == 8 * 7
    assert probe["effect"] > 0.1
    assert probe["correlation"] > 0.95
    assert probe["slope"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("spoil", [quadruple_alpha, rename_layers])
def test_a_version_that_vllm_computes_otherwise_is_refused_and_the_old_one_serves(
    server: Any,
    proven: int,
    make_version: Any,
    write_probe: Callable[[Path], None],
    spoil: Callable[[Path], None],
) -> None:
    def write(directory: Path) -> None:
        write_probe(directory)
        spoil(directory)

    version = make_version(seed=3, scale=0.15, then=write)
    error = promote(server, version)
    assert error is not None
    assert "vLLM does not serve what was trained" in error
    assert answering_version(server) == version_name(proven)
    with server.sessions() as s:
        assert ledger.versions.serving(s).version == proven
    status, probe = shown(server, version)
    assert (status, probe["verdict"]) == ("corrupt", "failed")
    with server.sessions() as s:
        events = [
            e.message for e in ledger.events.find(s, limit=1000) if e.type == "adapter.corrupt"
        ]
    assert events.count(error) == 1


def test_a_version_whose_effect_is_too_small_to_measure_serves_as_unproven(
    server: Any, make_version: Any, write_probe: Callable[[Path], None]
) -> None:
    version = make_version(seed=4, scale=0.001, then=write_probe)
    assert promote(server, version) is None
    assert answering_version(server) == version_name(version)
    _, probe = shown(server, version)
    assert (probe["verdict"], probe["tokens"]) == ("unproven", 8 * 7)
    with server.sessions() as s:
        events = [e for e in ledger.events.find(s, limit=1000) if e.type == "adapter.unproven"]
        assert events[-1].data["version"] == version


def test_a_probe_passes_beside_running_requests_and_fails_none_of_them(
    server: Any, make_version: Any, write_probe: Callable[[Path], None]
) -> None:
    ended = threading.Event()

    def ask() -> int:
        answered = 0
        while not ended.is_set():
            server.client.completions.create(
                model="tempo",
                prompt=PUZZLES[0].question,
                max_tokens=40,
                n=3,
                extra_body={"ignore_eos": True},
            )
            answered += 1
        return answered

    with ThreadPoolExecutor(6) as threads:
        users = [threads.submit(ask) for _ in range(6)]
        version = make_version(seed=5, scale=0.15, then=write_probe)
        try:
            assert promote(server, version) is None
        finally:
            ended.set()
        assert all(user.result(timeout=60) > 0 for user in users)
    assert shown(server, version)[1]["verdict"] == "passed"
