"""Build the parts of one API process; the plugin calls these functions in order."""

import contextlib
import logging
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from tempo_server import front
from tempo_server.capture.spool import Counters
from tempo_server.context import Context
from tempo_server.errors import StartError
from tempo_server.serving.bindings import Bindings
from tempo_server.serving.follower import Follower
from tempo_server.serving.probe import Probe, engine_scorer
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.decoding import PLAIN, Decoding, sampling_arguments
from tempo_storage.ledger.sessions import open_database
from tempo_storage.private import create_private
from tempo_storage.processes import forbid_core_files
from tempo_storage.valkey.embedded import keep_running
from tempo_storage.valkey.streams import QuestionStream, redis_client

logger = logging.getLogger("vllm.tempo")

# vLLM's places for the serving version, a candidate, and a version that finishes its requests
MIN_SLOTS = 3
# vLLM then logs prompts, or errors with the values that they quote.
WRITING_FLAGS = ("--enable-log-requests", "--log-error-stack")


def check_vllm(vllm_config: Any, arguments: Any = None) -> list[str]:
    """Return warnings about flags with which vLLM serves badly; raise StartError without LoRA.

    `arguments` are those of vLLM's command line.
    """
    if vllm_config.lora_config is None:
        raise StartError(
            "vLLM was started without LoRA; add --enable-lora --max-loras 5 --max-cpu-loras 16"
        )
    warnings = []
    slots = vllm_config.lora_config.max_loras
    if slots < MIN_SLOTS:
        warnings.append(f"--max-loras is {slots}: requests wait while versions change; use 5")
    policy = vllm_config.scheduler_config.policy
    if policy != "priority":
        warnings.append(f"--scheduling-policy is {policy}: rollouts delay users; use priority")
    for flag in WRITING_FLAGS:
        if getattr(arguments, flag.strip("-").replace("-", "_"), False):
            warnings.append(f"{flag} writes users' questions to the log: leave it out")
    for warning in warnings:
        logger.warning(warning)
    return warnings


def check_exposure(args: Namespace, users_keys: Sequence[str]) -> list[str]:
    """Return a warning if other machines can use the model without a key."""
    address = front.public_address(args)
    if not address or users_keys:
        return []
    warning = f"--host is {address}, and there is no users' key: others may use the model; "
    warning += front.REMEDY
    logger.warning(warning)
    return [warning]


def open_context(
    base: str,
    vllm_config: Any,
    *,
    served_names: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Context:
    """Open the stores that the settings name; `base` is vLLM's --model."""
    settings = ServerSettings()
    create_private(settings.root)
    forbid_core_files()
    client = redis_client(settings.redis_url or keep_running(settings.root))
    sessions = open_database(settings.resolved_database_url)
    store = AdapterStore(settings.adapters_dir)
    with sessions.begin() as s:
        ledger.published.adopt(s, store)
    return Context(
        settings=settings,
        sessions=sessions,
        store=store,
        stream=QuestionStream(client),
        redis=client,
        base=base,
        max_lora_rank=vllm_config.lora_config.max_lora_rank,
        default_decoding=default_decoding(vllm_config.model_config),
        served_names=tuple(served_names),
        warnings=tuple(warnings),
    )


def default_decoding(model_config: Any) -> Decoding:
    """Return the sampling that vLLM uses where a request sets none.

    It is that of the model's generation_config.json, unless --generation-config or
    --override-generation-config says otherwise.
    """
    fields = sampling_arguments(model_config.get_diff_sampling_param())
    temperature = fields["temperature"]
    top_p = fields["top_p"]
    top_k = int(fields["top_k"] or 0)
    max_tokens = fields["max_tokens"]
    return Decoding(
        temperature=PLAIN.temperature if temperature is None else temperature,
        top_p=PLAIN.top_p if top_p is None else top_p,
        top_k=max(top_k, 0),
        max_tokens=None if max_tokens is None else int(max_tokens),
    )


def new_follower(context: Context, bindings: Bindings, counters: Counters) -> Follower:
    """Return the follower of the serving pointer; it reports `counters` to the ledger."""
    engine = bindings.engine
    max_tokens = engine.vllm_config.model_config.max_model_len - 1
    probe = Probe(context.store, engine_scorer(engine), max_tokens=max_tokens)
    return Follower(context, bindings, probe, counters)


@contextlib.contextmanager
def unmeasured(engine: Any) -> Iterator[None]:
    """Keep the requests of the start out of vLLM's metrics, which show users' requests."""
    # There is no manager with --disable-log-stats.
    manager = getattr(engine, "logger_manager", None)
    loggers: list[Any] = getattr(manager, "stat_loggers", [])
    stock = [*loggers]
    loggers.clear()
    yield
    loggers.extend(stock)


async def warm_up(engine: Any) -> None:
    """Request log-probabilities once, as rollouts do: the first request stalls vLLM for seconds."""
    from vllm import SamplingParams, TokensPrompt

    sampling = SamplingParams(max_tokens=1, logprobs=0)
    for length in (4, 6):  # at the second length vLLM compiles a kernel that takes any length
        prompt = TokensPrompt(prompt_token_ids=[0] * length)
        async for _ in engine.generate(prompt, sampling, f"tempo-warm-up-{length}"):
            pass
