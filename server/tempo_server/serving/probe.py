"""Ask whether vLLM computes what was trained: compare the adapter's effect, token by token.

    d = trainer(adapter) − trainer(base)    stored with the version, in probe.json
    s = served(adapter) − served(base)      asked of the engine after each load

of the log-probabilities of the same responses. The log-probabilities themselves would prove
nothing: a small adapter moves them less than two computations of one base differ. That noise,
|served(base) − trainer(base)|, is measured beside: a version whose effect does not stand out from
it, or that cannot be asked about, is unproven, and served.
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

Score = Callable[[Sequence[int], int, Any], Awaitable[float]]
"""Log-probability of a token after others, by an adapter's LoRARequest or the base (None)."""

LEAST_EFFECT = 0.1  # nats
NOISES = 3.0  # so many times the noise must the effect be: bfloat16 alone then costs .1 of 1
OTHER_BASE = 0.5  # nats; no rounding of one base differs by so much
FEWEST_TOKENS = 16
LEAST_CORRELATION = 0.8
SLOPES = (0.7, 1.4)
SECONDS = 60.0
POSITIONS = 8  # of a sequence, evenly spread: each takes two requests for one token
AT_ONCE = 8  # requests; what users ask comes in between
RAW = "raw_logprobs"
PRIORITY = 1  # behind users, before rollouts


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found; kept in the adapter's report."""

    verdict: Literal["passed", "failed", "unproven"]
    reason: str
    tokens: int = 0
    effect: float | None = None
    """Mean |d| in nats."""
    noise: float | None = None
    """Mean difference between vLLM's base and the trainer's, in nats."""
    correlation: float | None = None
    slope: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """One token of a response, what stands before it, and what the trainer computed of it."""

    before: Sequence[int]
    token: int
    base: float
    policy: float


@dataclass(frozen=True, slots=True)
class Compared:
    """An adapter's effect on one token in the trainer and in vLLM, and what the bases differ by."""

    trained: float
    served: float
    noise: float


class Probe:
    """Compares versions with what their trainer stored."""

    def __init__(
        self, store: AdapterStore, score: Score | None, *, longest: int, seconds: float = SECONDS
    ) -> None:
        self._store = store
        self._score = score
        self._longest = longest
        self._seconds = seconds
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def run(self, name: str, request: Any) -> Finding:
        """Return what is found of a loaded adapter; whatever goes wrong leaves it unproven."""
        if self._score is None:
            return Finding(
                "unproven", f"vLLM's --logprobs-mode is not {RAW}, so it cannot be asked"
            )
        path = self._store.path(name) / PROBE_FILE
        try:
            sequences = json.loads(await asyncio.to_thread(path.read_text))["sequences"]
            compared = [
                self._compare(at, request, self._score) for at in self._places_of(sequences)
            ]
            async with asyncio.timeout(self._seconds):
                found = await asyncio.gather(*compared)
        except FileNotFoundError:
            return Finding("unproven", f"it has no {PROBE_FILE}")
        except TimeoutError:
            return Finding("unproven", f"vLLM did not answer within {self._seconds:g} s")
        except Exception as error:  # a probe that cannot be made refuses nobody
            logger.warning("%s cannot be probed", name, exc_info=error)
            return Finding("unproven", f"it cannot be probed: {type(error).__name__}: {error}")
        return judge(found)

    def _places_of(self, sequences: Sequence[dict[str, Any]]) -> list[Place]:
        """Return the places at which to compare: a few of each sequence, evenly spread."""
        found = []
        for told in sequences:
            prompt, response = told["prompt"], told["response"]
            count = max(0, min(len(response), self._longest - len(prompt)))
            for at in range(0, count, max(1, math.ceil(count / POSITIONS))):
                trained = told["base"][at], told["policy"][at]
                found.append(Place([*prompt, *response[:at]], response[at], *trained))
        return found

    async def _compare(self, at: Place, request: Any, score: Score) -> Compared:
        async with self._at_once:
            adapter = await score(at.before, at.token, request)
            base = await score(at.before, at.token, None)
        return Compared(at.policy - at.base, adapter - base, abs(base - at.base))


def judge(found: Sequence[Compared]) -> Finding:
    """Compare the effects that the adapter has in the trainer and in vLLM."""
    tokens = len(found)
    if tokens < FEWEST_TOKENS:
        return Finding("unproven", f"it was compared on {tokens} tokens only", tokens)
    trained, served = [at.trained for at in found], [at.served for at in found]
    effect, noise = statistics.fmean(map(abs, trained)), statistics.fmean(at.noise for at in found)
    correlation, slope = _fit(trained, served)
    figures = tokens, round(effect, 4), round(noise, 4), round(correlation, 4), round(slope, 4)
    if noise > OTHER_BASE:
        reason = f"vLLM's base is not the trainer's: they differ by {noise:.2f} nats a token"
        return Finding("failed", reason, *figures)
    least = max(LEAST_EFFECT, NOISES * noise)
    if effect < least:
        reason = f"its effect, {effect:.3f} nats a token, is too small to tell (below {least:.3f})"
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


def engine_score(engine: Any) -> Score | None:
    """Return the score that vLLM's engine gives; None where its log-probabilities are masked.

    A single token is asked for and no other allowed: its log-probability is that of the whole
    vocabulary. Prompt log-probabilities would take one request where this takes many, but with
    LoRA they can end vLLM's engine beside other requests.
    """
    from vllm import SamplingParams, TokensPrompt  # vLLM runs already

    if engine.vllm_config.model_config.logprobs_mode != RAW:
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
            found = output.outputs[0].logprobs
        return float(found[0][token].logprob)

    return score
