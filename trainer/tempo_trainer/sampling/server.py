"""The facts about the server that sampling needs: an admin key, the base model, its decoding."""

from pathlib import Path

from tempo_client import Tempo
from tempo_client.errors import APIError
from tempo_storage.decoding import Decoding
from tempo_storage.settings import read_key
from tempo_trainer.sampling.sampler import SamplingError
from tempo_trainer.worker_settings import WorkerSettings


def admin_key(settings: WorkerSettings) -> str:
    """Return the key that the worker sends to the server; raise SettingsError if there is none."""
    path = settings.admin_key_path
    if settings.api_key_file:
        path = Path(settings.api_key_file).expanduser()
    return settings.api_key or read_key(path)


def served_model(settings: WorkerSettings, key: str) -> tuple[str, Decoding]:
    """Return the model that the server was started with, and its decoding for silent requests.

    The model is a directory or a hub id. Raises SamplingError if the server does not answer.
    """
    try:
        trust_env = settings.trust_env
        with Tempo(settings.base_url, api_key=key, trust_env=trust_env) as tempo:
            status = tempo.status()
    except APIError as error:
        message = f"{error}; is vLLM with the tempo plugin at {settings.base_url}"
        raise SamplingError(message) from error
    default = status.default_decoding
    decoding = Decoding(default.temperature, default.top_p, default.top_k, default.max_tokens)
    return status.model, decoding


def served_base(settings: WorkerSettings, key: str) -> str:
    """Return the model alone."""
    return served_model(settings, key)[0]
