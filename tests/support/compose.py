"""The services of docker/compose.yaml as plain processes.

Every service runs with its own command, environment, dependencies and health check. This module
does only what a container engine does: names become ports of this machine, mounts become
directories, and an image's entry point becomes the binary that it starts.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from ports import free_port
from postgres import BINARIES, Postgres
from processes import clean_environment
from rounds import SMALL
from waiting import eventually

from tempo_storage.valkey.server import _binary

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = DOCKER / "compose.yaml"
PROFILE = "cpu"
START_SECONDS = 240.0
STOP_SECONDS = 60.0
# An operator would put these flags into compose.override.yaml for a model this small.
SERVER_FLAGS = (
    *("--served-model-name", "tiny", "--max-model-len", "128", "--max-num-seqs", "64"),
    *("--gpu-memory-utilization", "0.3"),
)
WORKER_ENVIRONMENT = SMALL | {"TEMPO_WARM_UP_STEPS": "1"}
ENVIRONMENT = {
    "TEMPO_DIE_WITH_PARENT": "1",
    "TORCH_COMPILE_DISABLE": "1",  # compiling one log-prob kernel takes half a minute
    "HF_HUB_OFFLINE": "1",
}


def make_secrets(directory: Path) -> None:
    """Write the secrets as docker/README.md says."""
    command = ["sh", str(DOCKER / "make_secrets.sh"), str(directory)]
    subprocess.run(command, check=True, timeout=60)


def replace(secret: Path, text: str) -> None:
    """Write another text into a secret, which nobody may write."""
    secret.unlink()
    secret.write_text(text)


def secret_names(secret: str | dict[str, str]) -> tuple[str, str]:
    """Return a secret's name in the compose file, and the name under which a service sees it."""
    if isinstance(secret, str):
        return secret, secret
    return secret["source"], secret["target"]


class Services:
    """Does the work of `docker compose --profile cpu up`, without containers."""

    def __init__(self, root: Path, postgres: Postgres, model: Path) -> None:
        self.root = root
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
        self.variables = {"MODEL": str(model), "KV_CACHE_GIB": "1"}
        self.port = free_port()
        self.valkey_port = free_port()
        self.places = self._places(postgres)
        self.binaries = {
            "valkey-server": [_binary(), "--port", str(self.valkey_port)],
            "valkey-cli": [
                *(sys.executable, "-c"),
                f"import redis; redis.Redis(port={self.valkey_port}, "
                "username='health', password='none').ping()",
            ],
            "pg_isready": [str(BINARIES / "pg_isready"), f"--port={postgres.port}"],
            "python3": [sys.executable],
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        make_secrets(root / "secrets")
        url = f"postgresql+psycopg://tempo:{postgres.password}@postgres/tempo"
        replace(root / "secrets" / "tempo_database_url", self.here(url))
        for role in ("server", "worker"):
            secret = root / "secrets" / f"{role}_redis_url"
            replace(secret, self.here(secret.read_text()))

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _places(self, postgres: Postgres) -> dict[str, str]:
        """Return addresses and directories of the compose file with those of this machine."""
        return {
            "--host=0.0.0.0": "--host=127.0.0.1",
            "--port=8000": f"--port={self.port}",
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            "server:8000": f"127.0.0.1:{self.port}",
            "valkey:6379": f"127.0.0.1:{self.valkey_port}",
            "@postgres/": f"@127.0.0.1:{postgres.port}/",
            "/var/lib/tempo": str(self.root / "state"),
            "/var/cache/tempo": str(self.root / "cache"),
            "/data": str(self.root / "valkey"),
        }

    def here(self, text: object) -> str:
        """Return a text of the compose file as it reads on this machine."""
        filled = re.sub(r"\$\{(\w+):-(.*?)\}", lambda m: self.variables.get(m[1], m[2]), str(text))
        pattern = "|".join(re.escape(there) for there in self.places)
        return re.sub(pattern, lambda m: self.places[m[0]], filled)

    @property
    def users_key(self) -> str:
        """The key that users send."""
        return (self.root / "secrets" / "tempo_vllm_api_key").read_text()

    def secrets(self, name: str) -> str:
        """Return a directory with the secrets of a service, by the names under which it sees them.

        It stands for /run/secrets.
        """
        mounted = self.root / "run" / name
        mounted.mkdir(parents=True, exist_ok=True)
        for secret in self.services[name].get("secrets", []):
            source, target = secret_names(secret)
            (mounted / target).write_text((self.root / "secrets" / source).read_text())
        return str(mounted)

    def command(self, name: str, words: list[str]) -> list[str]:
        """Return a command of a service as it runs on this machine."""
        first = self.binaries.get(words[0], [words[0]])
        here = [self.here(word).replace("/run/secrets", self.secrets(name)) for word in words[1:]]
        return [*first, *here]

    def mounts(self, service: dict[str, Any]) -> list[str]:
        """Return a prefix of the command that mounts the service's volumes, read-only or not."""
        steps = []
        for volume in reversed(service.get("volumes", [])):
            _, target, *mode = volume.split(":")
            place = self.here(target)
            Path(place).mkdir(parents=True, exist_ok=True)
            steps.append(f"mount --rbind {place} {place}")
            if mode == ["ro"]:
                steps.append(f"mount -o remount,ro,bind {place}")
        trial = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
        script = " && ".join([*steps, 'exec "$@"'])
        return ["unshare", "--mount", "sh", "-c", script, "sh"] if trial.returncode == 0 else []

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables of a service, and those that tests add."""
        own = self.services[name].get("environment", {})
        extra = WORKER_ENVIRONMENT if name == "worker" else {}
        here = {
            variable: self.here(value).replace("/run/secrets", self.secrets(name))
            for variable, value in own.items()
        }
        return clean_environment() | here | extra | ENVIRONMENT

    def up(self, name: str) -> None:
        """Start a service once those that it depends on meet its conditions."""
        service = self.services[name]
        for other, dependency in service.get("depends_on", {}).items():
            if PROFILE not in self.services[other]["profiles"]:
                assert dependency["required"] is False
                continue
            self.up(other)
            self.wait(other, dependency["condition"])
        if name in self.processes or name == "postgres":  # it runs already
            return
        flags = SERVER_FLAGS if name == "server" else ()
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self.mounts(service), *self.command(name, service["command"]), *flags],
                env=self.environment(name),
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self, name: str, condition: str) -> None:
        """Return when a service meets a condition of `depends_on`."""
        if condition == "service_completed_successfully":
            assert self.processes[name].wait(START_SECONDS) == 0, self.tail(name)
            return
        assert condition == "service_healthy"
        try:
            eventually(lambda: self.is_healthy(name), seconds=START_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{name} is not healthy:\n{self.tail(name)}") from error

    def is_healthy(self, name: str) -> bool:
        """Run a service's health check."""
        process = self.processes.get(name)
        assert process is None or process.poll() is None, self.tail(name)
        test = self.command(name, self.services[name]["healthcheck"]["test"][1:])
        return subprocess.run(test, capture_output=True, timeout=30, check=False).returncode == 0

    def log(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def tail(self, name: str) -> str:
        """Return the end of a service's log."""
        return self.log(name).read_text(errors="replace")[-6000:]

    def down(self) -> dict[str, int]:
        """Stop the services in the order of Compose, and return their exit codes."""
        codes = {}
        for name, process in reversed(self.processes.items()):
            process.terminate()
            try:
                codes[name] = process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:  # as Compose does after the grace period
                process.kill()
                codes[name] = process.wait()
        return codes
