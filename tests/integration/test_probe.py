"""The probe on real vLLM: what PEFT computed passes, and what vLLM garbles does not."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tempo_lab.tasks import countdown
from tempo_storage import ledger
from tempo_storage.adapters import version_name

pytestmark = [pytest.mark.vllm, pytest.mark.service]

PUZZLES = countdown.puzzles()[::450][:8]
PROBE_SECONDS = 10.0


def logprobs(model: Any, ids: list[int]) -> list[float]:
    with torch.no_grad():
        table = model(input_ids=torch.tensor([ids])).logits.float().log_softmax(-1)[0, :-1]
    found: list[float] = table.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    return found


@pytest.fixture(scope="module")
def write_probe(tiny_base: Path) -> Callable[[Path], None]:
    """Write what transformers and PEFT compute of the adapter in a directory."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)

    def write(directory: Path) -> None:
        base = AutoModelForCausalLM.from_pretrained(tiny_base)
        told = []
        for puzzle in PUZZLES:
            response = countdown.derivations(puzzle.numbers)[0].attempt(puzzle.target) + " <eos>"
            prompt = tokenizer("<bos> " + puzzle.question, add_special_tokens=False).input_ids
            answer = tokenizer(response, add_special_tokens=False).input_ids
            sequence = {"prompt": prompt, "response": answer}
            told.append(sequence | {"base": logprobs(base, prompt + answer)[len(prompt) - 1 :]})
        policy = PeftModel.from_pretrained(base, str(directory))
        for sequence in told:
            prompt, ids = sequence["prompt"], sequence["prompt"] + sequence["response"]
            sequence["policy"] = logprobs(policy, ids)[len(prompt) - 1 :]
        (directory / "probe.json").write_text(json.dumps({"sequences": told}))

    return write


def quadruple_alpha(directory: Path) -> None:
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": 4 * config["lora_alpha"]}))


def rename_layers(directory: Path) -> None:
    """Name layers that the base has not: vLLM loads them without a word."""
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({k.replace(".layers.", ".layers.9"): v for k, v in tensors.items()}, path)


@pytest.fixture(autouse=True)
def base_serves(server: Any) -> Iterator[None]:
    server.serve_base()
    yield
    server.serve_base()


def promote(server: Any, version: int) -> str | None:
    """Promote, wait until the server has seen it, and return why it refused."""
    with server.sessions.begin() as s:
        sequence = ledger.versions.promote(s, version).sequence
    server.wait_for_sequence(sequence)
    with server.sessions() as s:
        refused: str | None = ledger.versions.adapter(s, version).report.get("corrupt")
        return refused


def shown(server: Any, version: int) -> dict[str, Any]:
    """Return what the API shows of a version."""
    headers = {"Authorization": f"Bearer {server.admin_key}"}
    reply = server.http.get(f"/tempo/v1/adapters/{version_name(version)}", headers=headers)
    found: dict[str, Any] = reply.json()
    print(version_name(version), found["status"], found["report"].get("probe"))
    return found


def who_answers(server: Any) -> str:
    request = {"messages": [{"role": "user", "content": PUZZLES[0].question}], "max_tokens": 1}
    reply = server.http.post("/v1/chat/completions", json={"model": "tempo", **request})
    return str(reply.headers["x-tempo-adapter"])


@pytest.fixture
def proven(server: Any, make_version: Any, write_probe: Callable[[Path], None]) -> int:
    """A version that passed its probe, and serves."""
    version: int = make_version(seed=3, scale=0.15, then=write_probe)
    started = time.monotonic()
    assert promote(server, version) is None
    print(f"served after {time.monotonic() - started:.2f} s")
    assert time.monotonic() - started < PROBE_SECONDS
    return version


def test_what_was_trained_is_served_and_its_figures_are_shown(server: Any, proven: int) -> None:
    assert who_answers(server) == version_name(proven)
    found = shown(server, proven)["report"]["probe"]
    assert found["verdict"] == "passed"
    assert found["tokens"] == 8 * 7
    assert found["effect"] > 0.1
    assert found["correlation"] > 0.95
    assert found["slope"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("spoil", [quadruple_alpha, rename_layers])
def test_what_vllm_does_not_compute_as_trained_is_refused_and_the_old_one_serves_on(
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
    assert who_answers(server) == version_name(proven)
    with server.sessions() as s:
        assert ledger.versions.serving(s).version == proven
    found = shown(server, version)
    assert (found["status"], found["report"]["probe"]["verdict"]) == ("corrupt", "failed")
    with server.sessions() as s:
        events = [
            e.message for e in ledger.events.find(s, limit=1000) if e.type == "adapter.corrupt"
        ]
    assert events.count(error) == 1


def test_an_effect_too_small_to_tell_serves_unproven_and_says_so(
    server: Any, make_version: Any, write_probe: Callable[[Path], None]
) -> None:
    version = make_version(seed=4, scale=0.001, then=write_probe)
    assert promote(server, version) is None
    assert who_answers(server) == version_name(version)
    found = shown(server, version)["report"]["probe"]
    assert (found["verdict"], found["tokens"]) == ("unproven", 8 * 7)
    with server.sessions() as s:
        events = [e for e in ledger.events.find(s, limit=1000) if e.type == "adapter.unproven"]
        assert events[-1].data["version"] == version
        assert ledger.versions.processes(s)[-1].counters["unproven"] >= 1


def test_a_probe_beside_running_requests_harms_neither(
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
    assert shown(server, version)["report"]["probe"]["verdict"] == "passed"
