"""Ask whether vLLM computes what was trained: compare the adapter's effect, token by token.

    d = trainer(adapter) − trainer(base)    stored with the version, in probe.json
    s = served(adapter) − served(base)      asked of the engine after each load

of the log-probabilities of the same responses. The log-probabilities themselves would prove
nothing: a small adapter moves them less than two computations of one base differ. Where the
effect is too small for that, or cannot be measured, the version is unproven, and served.
"""

import asyncio
import json
import logging
import math
import statistics
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tempo_server.errors import ProbeFailedError
from tempo_storage.adapters import PROBE_FILE, AdapterStore

logger = logging.getLogger("vllm.tempo.probe")

Score = Callable[[Sequence[int], Any], Awaitable[list[float]]]
"""Log-probability of each token but the first, by an adapter's LoRARequest or by the base."""

EFFECT = 0.1  # nats; below it, noise is as large
FEWEST_TOKENS = 16
LEAST_CORRELATION = 0.8
SLOPES = (0.7, 1.4)
SECONDS = 30.0
NO_SCORE = "vLLM is not asked here: prompt log-probabilities with an adapter may end its engine"
PRIORITY = 1  # behind users, before rollouts


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found; kept in the adapter's report."""

    verdict: Literal["passed", "failed", "unproven"]
    reason: str
    tokens: int = 0
    effect: float | None = None
    """Mean |d| in nats."""
    correlation: float | None = None
    slope: float | None = None


class Probe:
    """Compares versions with what their trainer stored."""

    def __init__(
        self, store: AdapterStore, score: Score | None, *, longest: int, seconds: float = SECONDS
    ) -> None:
        self._store = store
        self._score = score
        self._longest = longest
        self._seconds = seconds

    async def run(self, name: str, request: Any) -> Finding:
        """Return what is found of a loaded adapter; whatever goes wrong leaves it unproven."""
        if self._score is None:
            return Finding("unproven", NO_SCORE)
        path = self._store.path(name) / PROBE_FILE
        try:
            sequences = json.loads(await asyncio.to_thread(path.read_text))["sequences"]
            async with asyncio.timeout(self._seconds):
                effects = [await self._effects(q, request, self._score) for q in sequences]
        except FileNotFoundError:
            return Finding("unproven", f"it has no {PROBE_FILE}")
        except TimeoutError:
            return Finding("unproven", f"vLLM did not answer within {self._seconds:g} s")
        except Exception as error:  # a probe that cannot be made refuses nobody
            logger.warning("%s cannot be probed", name, exc_info=error)
            return Finding("unproven", f"it cannot be probed: {type(error).__name__}: {error}")
        pairs = [pair for effect in effects for pair in effect]
        return judge([d for d, _ in pairs], [s for _, s in pairs])

    async def _effects(
        self, sequence: dict[str, Any], request: Any, score: Score
    ) -> list[tuple[float, float]]:
        prompt = len(sequence["prompt"])
        tokens = [*sequence["prompt"], *sequence["response"]][: self._longest]
        if len(tokens) <= prompt:
            return []
        # One after the other: their logits are much memory, and users' tokens come in between.
        adapter = (await score(tokens, request))[prompt - 1 :]
        base = (await score(tokens, None))[prompt - 1 :]
        trained = zip(sequence["policy"], sequence["base"], strict=True)
        served = zip(adapter, base, strict=True)
        return [(p - b, a - c) for (p, b), (a, c) in zip(trained, served, strict=False)]


def judge(trained: Sequence[float], served: Sequence[float]) -> Finding:
    """Compare the effects that the adapter has in the trainer and in vLLM."""
    tokens = len(trained)
    if tokens < FEWEST_TOKENS:
        return Finding("unproven", f"it was compared on {tokens} tokens only", tokens)
    effect = statistics.fmean(map(abs, trained))
    correlation, slope = _fit(trained, served)
    figures = tokens, round(effect, 4), round(correlation, 3), round(slope, 3)
    if effect < EFFECT:
        reason = f"its effect, {effect:.3f} nats a token, is below {EFFECT:g}"
        return Finding("unproven", reason, *figures)
    low, high = SLOPES
    if correlation >= LEAST_CORRELATION and low <= slope <= high:
        return Finding("passed", "vLLM serves what was trained", *figures)
    reason = (
        f"vLLM does not serve what was trained: over {tokens} tokens, which the adapter moves by "
        f"{effect:.2f} nats on average, the effects correlate by {correlation:.2f} (at least "
        f"{LEAST_CORRELATION:g}) with slope {slope:.2f} ({low:g} to {high:g})"
    )
    return Finding("failed", reason, *figures)


def refuse(name: str, finding: Finding) -> None:
    """Raise ProbeFailedError for a failed probe."""
    if finding.verdict == "failed":
        raise ProbeFailedError(
            f"{name}: {finding.reason}; promote another version, and check that vLLM and the "
            "trainer run the same base and that vLLM supports every layer of the adapter"
        )


def _fit(trained: Sequence[float], served: Sequence[float]) -> tuple[float, float]:
    """Return correlation and slope of the served effect; 0 and 0 where there is none."""
    if not all(map(math.isfinite, (*trained, *served))):
        return 0.0, 0.0
    try:
        correlation = statistics.correlation(trained, served)
        return correlation, statistics.linear_regression(trained, served).slope
    except statistics.StatisticsError:  # all alike: nothing has an effect
        return 0.0, 0.0


def engine_score(engine: Any) -> Score:
    """Return the score that vLLM's engine gives."""
    from vllm import SamplingParams, TokensPrompt  # vLLM runs already

    # Prompt log-probabilities bypass the prefix cache; 1, for vLLM does not check a 0 everywhere.
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=1, detokenize=False)

    async def score(tokens: Sequence[int], request: Any) -> list[float]:
        prompt = TokensPrompt(prompt_token_ids=list(tokens))
        name = f"tempo-probe-{uuid.uuid4().hex}"
        found: list[Any] = []
        async for output in engine.generate(
            prompt, sampling, name, lora_request=request, priority=PRIORITY
        ):
            found = output.prompt_logprobs or found
        pairs = zip(tokens[1:], found[1:], strict=True)
        return [float(at[token].logprob) for token, at in pairs]

    return score
