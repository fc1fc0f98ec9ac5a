"""Measure how much time the plugin adds to a request: two servers side by side.

    python tests/benchmarks/plugin_cost.py MODEL [--pairs 300] [--tokens 1]

One server serves MODEL with the plugin and capture on. The other is a stock server with the same
flags. Each pair of requests asks both the same question, in random order. The script prints a row
of the documentation: the median ratio of request times with its bootstrap 95 % interval. Half of
the pairs use servers that were started in the other order, because the first of two stock servers
is slower by about 1 %.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

from tempo_lab.serving.processes import Process, free_port
from tempo_storage.valkey.server import EmbeddedValkey

FLAGS = (
    *("--enable-lora", "--max-loras", "5", "--max-lora-rank", "16", "--max-model-len", "128"),
    *("--scheduling-policy", "priority", "--gpu-memory-utilization", "0.3"),
    *("--served-model-name", "base", "--host", "127.0.0.1"),
    *("--dtype", "float32", "--distributed-executor-backend", "uni"),
)
WARM_UP = 30
RESAMPLES = 5000


def serve(stack: ExitStack, model: Path, *, plugin: bool, root: Path) -> str:
    """Start a server and return its URL."""
    port = free_port()
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCH_COMPILE_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_PLUGINS": "tempo_cpu_lora",
        # One process each, bound to no core: bound servers would wait for one another's threads.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    arguments = [*FLAGS, "--port", str(port)]
    if plugin:
        valkey = EmbeddedValkey(root)
        valkey.start()
        stack.callback(valkey.process.kill)
        env |= {"TEMPO_DATA_DIR": str(root), "TEMPO_REDIS_URL": valkey.url}
        process = Process(
            "tempo_server.commands.vllm_serve",
            [str(model), *arguments],
            log=root / "plugin.log",
            env=env,
        )
    else:
        module = "vllm.entrypoints.openai.api_server"
        arguments = ["--model", str(model), *arguments]
        process = Process(module, arguments, log=root / "stock.log", env=env)
    stack.callback(process.stop)
    process.wait_until_healthy(f"http://127.0.0.1:{port}/health")
    return f"http://127.0.0.1:{port}"


def seconds(client: httpx.Client, number: int, tokens: int) -> float:
    """Return the time of one request."""
    numbers = (number % 13 + 1, number % 11 + 2, number % 7 + 3)
    text = "use {} {} {} make 24 ?".format(*numbers)
    body = {"model": "base", "max_tokens": tokens, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": text}]
    start = time.perf_counter()
    client.post("/v1/chat/completions", json=body).raise_for_status()
    return time.perf_counter() - start


def pairs(model: Path, count: int, tokens: int, *, plugin_first: bool) -> list[tuple[float, float]]:
    """Start both servers; return the seconds of each pair: with the plugin, stock."""
    root = Path(tempfile.mkdtemp(prefix="tempo-cost-"))
    with ExitStack() as stack:
        clients = {}
        for plugin in (plugin_first, not plugin_first):
            url = serve(stack, model, plugin=plugin, root=root)
            clients[plugin] = stack.enter_context(httpx.Client(base_url=url, timeout=60))
        times = []
        for number in range(WARM_UP + count):
            order = random.sample([True, False], 2)
            pair = {plugin: seconds(clients[plugin], number, tokens) for plugin in order}
            times.append((pair[True], pair[False]))
    return times[WARM_UP:]


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of the median."""
    chance = random.Random(0)
    medians = sorted(
        statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)
    )
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description="time that the plugin adds to a request")
    parser.add_argument("model", type=Path)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=1)
    options = parser.parse_args()
    measured = [
        pair
        for plugin_first in (True, False)
        for pair in pairs(
            options.model, options.pairs // 2, options.tokens, plugin_first=plugin_first
        )
    ]
    ratios = [ours / stock for ours, stock in measured]
    more_ms = 1000 * statistics.median(ours - stock for ours, stock in measured)
    low, high = interval(ratios)
    stock_ms = 1000 * statistics.median(stock for _, stock in measured)
    print(
        f"| request time with the plugin ÷ stock, {options.tokens} tokens | "
        f"{statistics.median(ratios):.3f} ({low:.3f}-{high:.3f}) | "
        f"{len(ratios)} pairs, stock median {stock_ms:.1f} ms, {more_ms:+.2f} ms with the plugin |"
    )


if __name__ == "__main__":
    main()
