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
    round_questions: int = Field(default=64, ge=0)
    """New distinct questions that start a round by themselves; 0: rounds start on request only."""
    recalibrate_hours: float = Field(default=0, ge=0)
    """Recalibrate the critic when it was not for so long; 0: in rounds and on request only."""
    recalibrate_auroc: float = Field(default=0.65, ge=0, le=1)
    """A round that ended with a lower AUROC on held-out questions has the critic recalibrated
    before the next one starts by itself: `warm_up_steps` E-steps, no M-step; 0: never."""
    gate_questions: int = Field(default=512, ge=8)
    """Most held-out questions that the gate or a check asks; each gets `gate_samples` responses."""
    sentinel_seconds: float = Field(default=900, ge=0)
    """Seconds from a promotion or a check to the next check of what serves; 0: never."""
    sentinel_checks: int = Field(default=3, ge=1, le=50)
    """Checks in a row below the base after which the version is rolled back and training paused."""
    versions_kept: int = Field(default=20, ge=3)
    """Versions whose files are kept, the newest and those in use; the others' rows stay."""
    versions_bytes: int = Field(default=50 * 1024**3, ge=1)
    """Bytes of adapters and checkpoints that versions may take; those in use stay beyond it."""
    pool_questions: int = Field(default=20_000, ge=1)
    """Distinct questions that are kept; those asked longest ago go first."""
    rollouts_dir: str = ""
    """Directory where rollouts are recorded, and from which those that are there are replayed, so
    that runs on the same questions can be compared; empty: sample all afresh."""
    verifier_processes: int = Field(default=1, ge=1, le=64)
    """Processes that verify responses."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads of the trainer; 0: half of the cores. Threads that wait for busy cores crawl."""
    die_with_parent: bool = False
    """End when the process that started this one ends, also by kill -9."""
    failpoint: str = Field(default="", pattern=r"^([a-z_]+(:[1-9]\d*)?)?$")
    """For tests: `m_step:3` kills the worker with -9 after its third M-step, before the commit."""
