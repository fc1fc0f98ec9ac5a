"""A real model served by `tempo serve`, and the memory that its processes take."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tempo_lab.serving.processes import Process, free_port

FLAGS = ("--max-model-len", "512", "--max-num-seqs", "64", "--gpu-memory-utilization", "0.3")
# Small and fast: the test shows that an update arrives, not that it helps.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TEMPO_DTYPE": "bfloat16",  # the precision in which vLLM serves
    "TEMPO_ROUND_QUESTIONS": "0",
    "TEMPO_MAX_RESPONSE_TOKENS": "32",
    "TEMPO_GROUP_SIZE": "4",
    "TEMPO_LABELED_PER_STEP": "8",
    "TEMPO_UNLABELED_PER_STEP": "8",
    "TEMPO_HELD_OUT_PER_STEP": "4",
    "TEMPO_WARM_UP_STEPS": "3",
    "TEMPO_WARM_UP_QUESTIONS": "8",
    "TEMPO_CRITIC_EPOCHS": "1",
    "TEMPO_REPLAY_BATCHES": "0",
    "TEMPO_GATE_SAMPLES": "2",
    "TEMPO_POLICY_LEARNING_RATE": "5e-4",
    "TEMPO_KL_COEFFICIENT": "0",
    # No critic is proven after so few steps; tests/support/injection.py explains the variable.
    "PYTHONPATH": str(Path(__file__).parents[1] / "support" / "injected"),
    "INJECT_ANY_CRITIC": "1",
    "TEMPO_MINIMUM_ADVANTAGE_STD": "0",
}
SAMPLE_SECONDS = 2.0


@contextmanager
def served(base: Path, root: Path) -> Iterator[str]:
    """Run `tempo serve` on a free port until the block ends; yield its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["serve", str(base), "--host", "127.0.0.1", "--port", str(port), *FLAGS]
    environment = {**ENVIRONMENT, "TEMPO_DATA_DIR": str(root), "TEMPO_DIE_WITH_PARENT": "1"}
    process = Process("tempo_client.cli", command, log=root / "serve.log", env=environment)
    try:
        process.wait_until_healthy(f"{url}/health")
        yield url
    finally:
        process.stop()


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Watch this process and its children; yield a function of their peak memory in bytes."""
    ended = threading.Event()
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_SECONDS):
            peak = max(peak, sum(_resident(process) for process in _family()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        ended.set()
        thread.join()


def _family() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _resident(process: psutil.Process) -> int:
    """Return a process's proportional share of memory; 0 if it has just ended."""
    try:
        share: int = process.memory_full_info().pss
        return share
    except psutil.Error:
        return 0
