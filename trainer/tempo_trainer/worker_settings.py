"""Settings of the worker process: where it finds the server, and how much it may ask at once."""

from pydantic import Field

from tempo_trainer.settings import TrainerSettings


class WorkerSettings(TrainerSettings):
    """The trainer's settings and the process around it."""

    base_url: str = "http://127.0.0.1:8000"
    """The vLLM server whose users' questions are learned from."""
    api_key: str = ""
    """An admin key; empty: read `api_key_file`."""
    api_key_file: str = ""
    """File with an admin key; empty: admin.key in the data directory."""
    vllm_api_key: str = ""
    """The key that vLLM itself was started with (--api-key), if any."""
    prompts_per_request: int = Field(default=4, ge=1, le=64)
    """Questions in one rollout request; each gets `group_size` responses."""
    requests_in_flight: int = Field(default=4, ge=1, le=64)
    """Rollout requests at once: bounds what training takes from users."""
    patience_seconds: float = Field(default=180.0, ge=1, le=3600)
    """How long a job waits for a server that does not answer before the attempt fails."""
    verifier_processes: int = Field(default=1, ge=1, le=64)
    """Processes that verify responses."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads of the trainer; 0: as many as torch finds."""
    die_with_parent: bool = False
    """End when the process that started this one ends, also by kill -9."""
    failpoint: str = Field(default="", pattern=r"^([a-z_]+(:[1-9]\d*)?)?$")
    """For tests: `m_step:3` kills the worker with -9 after its third M-step, before the commit."""
