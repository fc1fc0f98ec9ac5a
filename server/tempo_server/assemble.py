"""Build what one API process runs with, in the order in which the plugin needs it."""

import logging
from collections.abc import Sequence
from typing import Any

from tempo_server import keys
from tempo_server.capture.capture import Capture
from tempo_server.capture.spool import Counters, Spool
from tempo_server.context import Context
from tempo_server.errors import StartError
from tempo_server.serving.bindings import Bindings
from tempo_server.serving.endpoints import Runtime
from tempo_server.serving.follower import Follower
from tempo_server.serving.probe import Probe, engine_score
from tempo_server.settings import ServerSettings
from tempo_storage.adapters import AdapterStore
from tempo_storage.ledger.sessions import open_database
from tempo_storage.valkey.embedded import keep_running
from tempo_storage.valkey.streams import QuestionStream, redis_client

logger = logging.getLogger("vllm.tempo")

FEWEST_SLOTS = 3  # serving, candidate, draining


def check(vllm_config: Any) -> list[str]:
    """Refuse a vLLM that cannot serve adapters; return warnings of one that serves them badly."""
    if vllm_config.lora_config is None:
        raise StartError(
            "vLLM was started without LoRA; add --enable-lora --max-loras 5 --max-cpu-loras 16"
        )
    warnings = []
    slots, policy = vllm_config.lora_config.max_loras, vllm_config.scheduler_config.policy
    if slots < FEWEST_SLOTS:
        warnings.append(f"--max-loras is {slots}: requests wait while versions change hands; use 5")
    if policy != "priority":
        warnings.append(f"--scheduling-policy is {policy}: rollouts delay users; use priority")
    for warning in warnings:
        logger.warning(warning)
    return warnings


def context(base: str, *, warnings: Sequence[str] = ()) -> Context:
    """Open the stores."""
    settings = ServerSettings()
    settings.root.mkdir(parents=True, exist_ok=True)
    client = redis_client(settings.redis_url or keep_running(settings.root))
    return Context(
        settings=settings,
        sessions=open_database(settings.resolved_database_url),
        store=AdapterStore(settings.adapters_dir),
        stream=QuestionStream(client),
        redis=client,
        base=base,
        counters=Counters(),
        warnings=tuple(warnings),
    )


def runtime(context: Context, engine: Any, state: Any) -> Runtime:
    """Bind the names of vLLM's models, and open the spool."""
    from vllm.entrypoints.openai.models.protocol import BaseModelPath  # vLLM runs already
    from vllm.lora.request import LoRARequest

    settings = context.settings
    spool = Spool(settings.root / "spool", context.counters, limit_bytes=settings.spool_bytes)
    bindings = Bindings(
        engine,
        state.openai_serving_models,
        lora_request=LoRARequest,
        base_model_path=BaseModelPath,
        store=context.store,
        base=context.base,
        rank=engine.vllm_config.lora_config.max_lora_rank,
        aliases=settings.alias_names,
    )
    longest = engine.vllm_config.model_config.max_model_len - 1
    probe = Probe(context.store, engine_score(engine), longest=longest)
    return Runtime(
        bindings=bindings,
        capture=Capture(settings, spool, context.counters),
        spool=spool,
        follower=Follower(context, bindings, probe),
        is_known_key=lambda key: keys.is_known_key(context, key),
    )


async def warm_up(engine: Any) -> None:
    """Ask for log-probabilities, as rollouts do: the first time stalls the engine for seconds."""
    from vllm import SamplingParams, TokensPrompt

    sampling = SamplingParams(max_tokens=1, logprobs=0)
    for length in (4, 6):  # from the second length on, vLLM's kernel takes any
        prompt = TokensPrompt(prompt_token_ids=[0] * length)
        async for _ in engine.generate(prompt, sampling, f"tempo-warm-up-{length}"):
            pass
