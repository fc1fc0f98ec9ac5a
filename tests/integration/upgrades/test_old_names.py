"""Names that deployments of commit 389b244 use go on working for one release."""

import importlib.util
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from processes import clean_environment, install

from tempo_storage.settings import StorageSettings, refuse_unknown_variables
from tempo_trainer.sampling.verifier_pool import Item, VerifierPool
from tempo_trainer.sampling.verifiers import Verdict

ROOT = Path(__file__).parents[3]
# The commands of docker/compose.yaml, and of `tempo serve`'s children, at that commit.
MODULES = ("tempo_storage.migrations", "tempo_server.launcher", "tempo_trainer.worker")
ENTRY_POINTS = {
    "vllm.endpoint_plugins": {"tempo"},
    "vllm.general_plugins": {"tempo_cpu_lora"},
    "tempo.commands": {"serve", "settings", "doctor", "worker", "demo", "study"},
    "tempo.settings": {"server", "worker"},
    "tempo.verifiers": {"math", "exact", "numeric", "choice", "countdown"},
}
# The variables of that compose file.
VARIABLES = {
    "TEMPO_DATA_DIR": "/var/lib/tempo",
    "TEMPO_REDIS_URL": "redis://valkey:6379/0",
    "TEMPO_SETTINGS_DIR": "",
    "TEMPO_BASE_URL": "http://server:8000",
}


@pytest.mark.parametrize("module", MODULES)
def test_python_finds_each_module_that_an_old_compose_file_starts(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


def test_the_old_name_of_the_migrations_applies_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tempo_storage.migrations"],
        env=clean_environment() | {"TEMPO_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(f"sqlite:///{tmp_path / 'tempo.db'}: applied m001_initial, ")


def test_every_old_entry_point_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group, names in ENTRY_POINTS.items():
        assert names <= project["entry-points"][group].keys()
        assert names <= {point.name for point in entry_points(group=group)}


def test_no_old_variable_is_unknown() -> None:
    refuse_unknown_variables(StorageSettings, environ=VARIABLES)


@pytest.mark.service
def test_a_verifier_that_imports_verdict_from_the_old_module_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
from tempo_trainer.verifiers import Verdict

class Short:
    name = "short"

    def check_reference(self, reference):
        return None

    def verify(self, response, reference, metadata):
        return Verdict(len(response) < 3)
"""
    install(tmp_path, "short", source, entry_points="[tempo.verifiers]\nshort = short:Short\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with VerifierPool(["short"]) as pool:
        verdicts = pool.verify([Item("short", text, ["1"], {}) for text in ("ab", "abc")])
    assert [verdict.correct for verdict in verdicts] == [True, False]
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)
