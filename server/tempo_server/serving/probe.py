"""Probe an adapter: compare its effect in vLLM with its effect in the trainer, token by token.

    d = trainer(adapter) − trainer(base)    stored with the version, in probe.json
    s = vllm(adapter) − vllm(base)          measured after each load

Both are differences of log-probabilities of the same responses' tokens, in nats. The
log-probabilities themselves would prove nothing: a small adapter moves them less than two
computations of the same base differ. The probe measures that difference, |vllm(base) −
trainer(base)|, too, and calls it noise.

    passed     s correlates with d, with a slope near 1: vLLM serves what was trained
    failed     it does not, although the effect stands out from the noise: the version is corrupt
    mismatch   the noise is so large that vLLM and the trainer run different bases: this server
               cannot serve the version, but the version is intact
    unproven   the effect does not stand out from the noise, or it cannot be measured: it serves
"""

import asyncio
import json
import logging
import math
import statistics
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from tempo_storage.adapters import PROBE_FILE, AdapterStore
from tempo_storage.errors import AdapterMismatchError, CorruptAdapterError

logger = logging.getLogger("vllm.tempo.serving")

ScoreToken = Callable[[Sequence[int], int, Any], Awaitable[float]]
"""(token ids before, token id, LoRARequest or None for the base) -> the token's log-probability."""

MIN_EFFECT = 0.1  # nats
# The effect must be so many times the noise. bfloat16's noise alone then lowers a correlation of 1
# by .1.
NOISE_FACTOR = 3.0
MAX_NOISE = 0.5  # nats; rounding of the same base never differs by so much
MIN_TOKENS = 16
MIN_CORRELATION = 0.8
MIN_SLOPE = 0.7
MAX_SLOPE = 1.4
TIMEOUT_SECONDS = 60.0
MAX_POSITIONS = 8  # of a sequence, evenly spread: each takes two requests for one token
MAX_CONCURRENT = 8  # positions; users' requests come in between
RAW_LOGPROBS = "raw_logprobs"
PRIORITY = 1  # after users, before rollouts


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a probe; the adapter's report keeps it."""

    verdict: Literal["passed", "failed", "mismatch", "unproven"]
    reason: str
    tokens: int = 0
    effect: float | None = None
    """Mean |d| in nats."""
    noise: float | None = None
    """Mean difference between vLLM's base and the trainer's, in nats."""
    correlation: float | None = None
    slope: float | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """An adapter's effect on one token in the trainer and in vLLM, and the noise there."""

    trained: float
    served: float
    noise: float


@dataclass(eq=False)
class Probe:
    """Compares versions with the effects that their trainer stored.

    `score` measures in vLLM; it is None if vLLM does not return raw log-probabilities. `max_tokens`
    limits prompt and response together.
    """

    store: AdapterStore
    score: ScoreToken | None
    _: KW_ONLY
    max_tokens: int
    timeout_seconds: float = TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def run(self, name: str, request: Any) -> Finding:
        """Return the finding about a loaded adapter; if the probe itself fails, it is unproven."""
        if self.score is None:
            return Finding("unproven", f"vLLM's --logprobs-mode is not {RAW_LOGPROBS}")
        path = self.store.path(name) / PROBE_FILE
        try:
            sequences = json.loads(await asyncio.to_thread(path.read_text))["sequences"]
            positions = [(item, at) for item in sequences for at in self._positions(item)]
            async with asyncio.timeout(self.timeout_seconds):
                effects = await asyncio.gather(
                    *(self._measure(item, at, request, self.score) for item, at in positions)
                )
        except FileNotFoundError:
            return Finding("unproven", f"it has no {PROBE_FILE}")
        except TimeoutError:
            return Finding("unproven", f"vLLM did not answer within {self.timeout_seconds:g} s")
        except Exception as error:  # a probe that cannot be made must not refuse a version
            logger.warning("%s cannot be probed", name, exc_info=error)
            return Finding("unproven", f"it cannot be probed: {type(error).__name__}: {error}")
        return compare_effects(effects)

    def _positions(self, sequence: dict[str, Any]) -> range:
        """Return the places of a few tokens of a response, evenly spread."""
        max_response = self.max_tokens - len(sequence["prompt"])
        count = max(0, min(len(sequence["response"]), max_response))
        return range(0, count, max(1, math.ceil(count / MAX_POSITIONS)))

    async def _measure(
        self, sequence: dict[str, Any], at: int, request: Any, score: ScoreToken
    ) -> Effect:
        before = [*sequence["prompt"], *sequence["response"][:at]]
        token = sequence["response"][at]
        trained_base = sequence["base"][at]
        async with self._slots:
            served = await score(before, token, request)
            served_base = await score(before, token, None)
        return Effect(
            trained=sequence["policy"][at] - trained_base,
            served=served - served_base,
            noise=abs(served_base - trained_base),
        )


def compare_effects(effects: Sequence[Effect]) -> Finding:
    """Decide whether vLLM serves what was trained, by an adapter's effects on the same tokens."""
    tokens = len(effects)
    if tokens < MIN_TOKENS:
        return Finding("unproven", f"it was compared on {tokens} tokens only", tokens)
    size = statistics.fmean(abs(effect.trained) for effect in effects)
    noise = statistics.fmean(effect.noise for effect in effects)
    correlation, slope = _fit(effects)
    figures = tokens, round(size, 4), round(noise, 4), round(correlation, 4), round(slope, 4)
    if not noise <= MAX_NOISE:  # it may be NaN
        reason = f"vLLM's base is not the trainer's: they differ by {noise:.2f} nats a token"
        return Finding("mismatch", reason, *figures)
    minimum = max(MIN_EFFECT, NOISE_FACTOR * noise)
    if size < minimum:
        reason = f"its effect, {size:.3f} nats a token, is too small to tell (below {minimum:.3f})"
        return Finding("unproven", reason, *figures)
    if correlation >= MIN_CORRELATION and MIN_SLOPE <= slope <= MAX_SLOPE:
        return Finding("passed", "vLLM serves what was trained", *figures)
    reason = (
        f"vLLM does not serve what was trained: over {tokens} tokens, which the adapter moves by "
        f"{size:.2f} nats on average, the effects correlate by {correlation:.2f} (at least "
        f"{MIN_CORRELATION:g}) with slope {slope:.2f} ({MIN_SLOPE:g} to {MAX_SLOPE:g})"
    )
    return Finding("failed", reason, *figures)


def raise_if_failed(name: str, finding: Finding) -> None:
    """Raise CorruptAdapterError for a failed probe, AdapterMismatchError for another base."""
    if finding.verdict == "failed":
        raise CorruptAdapterError(
            f"{name}: {finding.reason}; promote another version, and check that vLLM supports "
            "every layer of the adapter"
        )
    if finding.verdict == "mismatch":
        raise AdapterMismatchError(
            f"{name}: {finding.reason}; restart vLLM with the model files and the precision with "
            "which the worker trains"
        )


def _fit(effects: Sequence[Effect]) -> tuple[float, float]:
    """Return correlation and slope of the served effects over the trained ones; else 0 and 0."""
    trained = [effect.trained for effect in effects]
    served = [effect.served for effect in effects]
    if not all(map(math.isfinite, (*trained, *served))):
        return 0.0, 0.0
    try:
        correlation = statistics.correlation(trained, served)
        return correlation, statistics.linear_regression(trained, served).slope
    except statistics.StatisticsError:  # all effects are equal
        return 0.0, 0.0


def engine_scorer(engine: Any) -> ScoreToken | None:
    """Return a function that scores tokens with vLLM; None if its log-probabilities are masked.

    Each request generates one token, and allows only the scored one; the raw log-probability is
    still that of the whole vocabulary. Prompt log-probabilities would take fewer requests, but with
    LoRA they can end vLLM's engine beside other requests.
    """
    from vllm import SamplingParams, TokensPrompt  # vLLM runs already

    if engine.vllm_config.model_config.logprobs_mode != RAW_LOGPROBS:
        return None

    async def score(before: Sequence[int], token: int, request: Any) -> float:
        sampling = SamplingParams(
            max_tokens=1, logprobs=0, allowed_token_ids=[token], detokenize=False
        )
        prompt = TokensPrompt(prompt_token_ids=list(before))
        name = f"tempo-probe-{uuid.uuid4().hex}"
        async for output in engine.generate(
            prompt, sampling, name, lora_request=request, priority=PRIORITY
        ):
            logprobs = output.outputs[0].logprobs
        return float(logprobs[0][token].logprob)

    return score
