"""Where the packages come from: the hashes in the locks, and the list of packages."""

import json
import os
import re
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted([*(ROOT / "docker").glob("*.lock"), *(ROOT / "tests").rglob("*.lock")])
CPU_STACK = [ROOT / "docker" / "torch.lock", ROOT / "docker" / "cpu.lock"]
HASH = r"\\\n    --hash=sha256:[0-9a-f]{64} ?"
ENTRY = re.compile(rf"^(\S+)==(\S+)((?: ; [\w' =]+)? (?:{HASH})+)\n", re.MULTILINE)


def run(
    *command: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def pins(lock: Path) -> dict[str, str]:
    """Return name and version of each package of a lock."""
    return {name: version for name, version, _ in ENTRY.findall(lock.read_text())}


# Hashes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_is_nothing_but_exact_versions_with_their_hashes(lock: Path) -> None:
    text = lock.read_text()
    assert pins(lock)
    assert [line for line in ENTRY.sub("", text).splitlines() if not line.startswith("#")] == []
    assert len(pins(lock)) == len(ENTRY.findall(text))


def test_the_locks_agree_on_each_version_because_one_environment_holds_them_all() -> None:
    versions: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, version in pins(lock).items():
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_torch_has_the_hash_of_each_supported_python_on_both_kinds_of_machine() -> None:
    [(name, version, hashes)] = ENTRY.findall(CPU_STACK[0].read_text())
    assert (name, version.endswith("+cpu"), hashes.count("sha256:")) == ("torch", True, 6)


@pytest.mark.parametrize(
    "text", [(ROOT / "Makefile").read_text(), (ROOT / "docker" / "Dockerfile").read_text()]
)
def test_whatever_installs_a_lock_demands_its_hashes(text: str) -> None:
    variables = dict(re.findall(r"^(\w+) := (.*)$", text, re.MULTILINE))
    joined = re.sub(r"\$\((\w+)\)", lambda m: variables.get(m[1], m[0]), text.replace("\\\n", " "))
    installing = [line for line in joined.splitlines() if re.search(r" -r \S+", line)]
    assert len(installing) >= 3
    assert [line for line in installing if "--require-hashes" not in line] == []
    assert not re.search(r"install.* [\w.-]+==\d", joined)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The smallest wheel that pip installs."""
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny.py", "HONEST = True\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


def install(wheel: Path, hashes: str) -> subprocess.CompletedProcess[str]:
    """Install the wheel as the Makefile does, by a lock that has these hashes."""
    lock = wheel.parent / "some.lock"
    lock.write_text(f"# a comment\ntiny==1.0{hashes}\n")
    options = ["--no-index", "--find-links", wheel.parent, f"--target={wheel.parent / 'site'}"]
    locked = ["--require-hashes", "--no-build-isolation", "-r", lock]
    env = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    return run(sys.executable, ROOT / "docker" / "install.py", *options, *locked, env=env)


def recorded(wheel: Path) -> str:
    """Return the lines of a lock with two hashes: another file's and this wheel's."""
    hashes = (sha256(b"of another machine").hexdigest(), sha256(wheel.read_bytes()).hexdigest())
    return "".join(f" \\\n    --hash=sha256:{digest}" for digest in hashes)


def test_a_wheel_whose_hash_is_in_the_lock_is_installed(wheel: Path) -> None:
    result = install(wheel, recorded(wheel))
    assert result.returncode == 0, result.stdout
    assert (wheel.parent / "site" / "tiny.py").exists()
    assert f"installing {wheel.parent / 'some.lock'}: done" in result.stdout  # not "3 packages"


def test_a_tampered_wheel_is_refused(wheel: Path) -> None:
    hashes = recorded(wheel)
    with zipfile.ZipFile(wheel, "a") as file:
        file.writestr("tiny_evil.py", "")
    result = install(wheel, hashes)
    assert result.returncode != 0
    assert "DO NOT MATCH THE HASHES" in result.stdout
    assert not (wheel.parent / "site").exists()


def test_a_package_without_a_hash_is_refused(wheel: Path) -> None:
    result = install(wheel, "")
    assert result.returncode != 0
    assert "Hashes are required" in result.stdout
    assert not (wheel.parent / "site").exists()


def test_new_hashes_take_the_place_of_the_old_ones_and_comments_stay(tmp_path: Path) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text("# why\none==1 \\\n    --hash=sha256:old\ntwo==2 ; python_version < '4'\n")
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\nsed 's/$/ NEW/'\n")
    uv.chmod(0o755)
    assert run("sh", ROOT / "docker" / "lock.sh", uv, lock).returncode == 0
    assert lock.read_text() == "# why\none==1  NEW\ntwo==2 ; python_version < '4' NEW\n"


def test_a_failed_registry_leaves_the_lock_as_it_was(tmp_path: Path) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text("one==1 \\\n    --hash=sha256:old\n")
    assert run("sh", ROOT / "docker" / "lock.sh", "false", lock).returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["some.lock"]
    assert lock.read_text().endswith("old\n")


def test_make_lint_audits_every_lock() -> None:
    commands = run("make", "-n", "-o", ".venv/audit-tools", "lint").stdout
    [line] = [line for line in commands.splitlines() if "docker/audit.py" in line]
    assert {*line.split()[2:]} == {str(lock.relative_to(ROOT)) for lock in LOCKS}


# The list of packages -----------------------------------------------------------------------------


def test_the_sbom_is_valid_and_names_each_package_of_the_cpu_stack_with_its_hashes(
    tmp_path: Path,
) -> None:
    sbom = tmp_path / "new" / "sbom.json"
    variables = (f"BIN={Path(sys.executable).parent}", f"SBOM={sbom}")
    result = run("make", "-o", ".venv/audit-tools", "sbom", *variables)
    assert result.returncode == 0, result.stderr  # the library's own validator refuses a wrong one
    assert " --validate " in result.stdout
    text = sbom.read_text()
    found = json.loads(text)
    assert found["metadata"]["component"]["name"] == "vllm-tempo"
    assert {c["name"]: c["version"] for c in found["components"]} == {
        name: version for lock in CPU_STACK for name, version in pins(lock).items()
    }
    for lock in CPU_STACK:
        assert all(digest in text for digest in re.findall(r"sha256:(\w+)", lock.read_text()))
