"""A newcomer's set-up: which Python is taken, how packages are installed, and what CI demands."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import services

ROOT = Path(__file__).parents[2]
CHOOSE = ROOT / "docker" / "choose_python.sh"
INSTALL = ROOT / "docker" / "install.py"
LOCK = (ROOT / "docker" / "torch.lock").read_text()
TORCH = re.findall(r"^torch==(\S+)", LOCK, re.MULTILINE)[0]
TOOLS = ("sh", "bash", "sed", "grep", "mktemp", "rm", "dirname", "basename", "awk")


def run(
    *command: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def program(path: Path, script: str) -> Path:
    """Write a shell script that can be called as a program."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A directory for PATH, with the standard tools and no Python."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in TOOLS:
        (directory / name).symlink_to(shutil.which(name) or name)
    return directory


# The choice of a Python ---------------------------------------------------------------------------


def python(
    tools: Path, name: str, *, torch: str = TORCH, torch_of_311: str = "", pip_exit: int = 0
) -> None:
    """Write a Python whose pip lists one version of torch, and maybe another for Python 3.11."""
    script = f"""
        case "$*" in
            --version) echo "Python ${{0##*python}}.1" ;;
            "-c import pip, ensurepip") exit {pip_exit} ;;
            *" --python-version 3.11") echo "Available versions: 9.9, {torch_of_311}" ;;
            *) echo "$*" >> {tools}/pip.log
               echo "WARNING: Location 'x' is ignored: it is neither a file nor a directory" >&2
               echo "WARNING: the index is slow" >&2
               echo "Available versions: 9.9, {torch}, 1.0" ;;
        esac"""
    program(tools / name, script)


def shim(tools: Path, name: str) -> None:
    """Write a program as pyenv does for a version that is not switched on."""
    program(tools / name, f"echo 'pyenv: {name}: command not found' >&2; exit 127")


def choose(tools: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("sh", CHOOSE, *arguments, env={"PATH": str(tools)})


def test_the_first_python_that_fits_is_taken(tools: Path) -> None:
    for name in ("python3.13", "python3.12", "python3.11"):
        python(tools, name)
    result = choose(tools)
    assert result.stdout == "python3.11\n"
    assert result.stderr.splitlines()[1:] == ["python3.11 (Python 3.11.1) is used"]


def test_a_missing_python_a_shim_and_one_without_a_wheel_are_passed_over(tools: Path) -> None:
    shim(tools, "python3.11")
    python(tools, "python3.12", torch="2.0")
    python(tools, "python3.13")
    result = choose(tools)
    assert result.stdout == "python3.13\n"
    assert result.stderr.splitlines()[1:] == [
        "python3.13 (Python 3.13.1) is used; "
        f"python3.11 passed over: {tools}/python3.11 does not run; "
        f"python3.12 passed over: pip finds no wheel of torch {TORCH} for it"
    ]
    (tools / "python3.11").unlink()
    assert "python3.11 passed over: it is not installed" in choose(tools).stderr


def test_a_python_without_pip_is_passed_over(tools: Path) -> None:
    python(tools, "python3.11", pip_exit=1)
    python(tools, "python3.12")
    result = choose(tools)
    assert result.stdout == "python3.12\n"
    assert "passed over: it has no pip or no ensurepip (Debian: python3-pip" in result.stderr


def test_a_longer_version_of_torch_is_not_the_lock_s(tools: Path) -> None:
    python(tools, "python3.11", torch=f"{TORCH}.post1")
    assert choose(tools).returncode == 1


def test_where_only_the_wheel_of_python_3_11_exists_one_line_says_so(tools: Path) -> None:
    python(tools, "python3.12", torch="2.0", torch_of_311=TORCH)
    result = choose(tools)
    assert (result.returncode, result.stdout) == (1, "")
    *_, remedy, index = result.stderr.splitlines()
    assert (
        remedy
        == f"pip finds torch {TORCH} for Python 3.11 only: install python3.11 with pip and venv"
    )
    assert index.endswith("make TORCH_INDEX=https://download.pytorch.org/whl/cpu")


def test_without_any_python_the_error_names_the_remedy(tools: Path) -> None:
    result = choose(tools)
    assert (result.returncode, result.stdout) == (1, "")
    assert "error: no Python fits docker/torch.lock; python3.11 passed over" in result.stderr
    assert "install python3.11 with pip and venv" in result.stderr


def test_the_errors_of_pip_are_shown_without_its_noise_where_no_python_fits(tools: Path) -> None:
    python(tools, "python3.11", torch="2.0")
    errors = choose(tools).stderr
    assert "  pip: WARNING: the index is slow" in errors
    assert "neither a file" not in errors


def test_the_named_python_is_the_only_candidate_and_the_named_index_is_asked(tools: Path) -> None:
    python(tools, "python3.11")
    python(tools, "mine")
    result = choose(tools, str(tools / "mine"), "https://example.org/whl")
    assert result.stdout == f"{tools}/mine\n"
    assert "--extra-index-url https://example.org/whl" in (tools / "pip.log").read_text()
    shim(tools, "broken")
    assert choose(tools, "broken").returncode == 1


def test_make_hands_on_the_named_python_and_index() -> None:
    result = run("make", "-nB", ".venv/ready", "PYTHON=/my/python", "TORCH_INDEX=https://e.org")
    assert 'choose_python.sh "/my/python" "https://e.org"' in result.stdout
    locks = "-r docker/torch.lock -r docker/cpu.lock"
    assert f'--extra-index-url "https://e.org" {locks}' in result.stdout


# The installation ---------------------------------------------------------------------------------


def install(
    tmp_path: Path, *arguments: str, pip: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the installer without any installed package; `pip` is the code of its pip."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    env["PIP_CONFIG_FILE"] = os.devnull
    if pip is not None:
        (tmp_path / "pip").mkdir()
        (tmp_path / "pip" / "__init__.py").touch()
        (tmp_path / "pip" / "__main__.py").write_text(pip)
        env["PYTHONPATH"] = str(tmp_path)
    return run(sys.executable, "-S", INSTALL, *arguments, env=env)


def test_an_installation_says_how_far_it_is_and_how_long_it_took(tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text("# three packages\none==1\n\ntwo==2\nthree==3\n")
    result = install(tmp_path, "-r", str(tmp_path / "some.lock"), pip="print('Collecting one==1')")
    assert result.returncode == 0
    first, last = result.stdout.splitlines()
    assert first == "installing 3 packages; 0 % done, less than 1 min left"
    assert re.fullmatch(r"installing 3 packages: done in \d+ s", last)


def test_an_index_url_counts_for_no_package(tmp_path: Path) -> None:
    result = install(tmp_path, "--extra-index-url", "https://example.org", "one==1", pip="")
    assert result.stdout.startswith("installing one==1; ")


def test_a_failed_installation_keeps_pip_s_exit_code_and_its_last_lines(tmp_path: Path) -> None:
    pip = "print('WARNING: disk is slow'); print('line of the reason'); raise SystemExit(7)"
    result = install(tmp_path, "one==1", pip=pip)
    assert result.returncode == 7
    assert "\nWARNING: disk is slow\n" in result.stdout
    assert "the last lines of pip:\nWARNING: disk is slow\nline of the reason\n" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("installing one==1: failed in ")


def test_pip_s_warning_about_an_absent_local_index_is_left_out_and_its_error_is_not(
    tmp_path: Path,
) -> None:
    index = f"--index-url=file://{tmp_path}/absent"
    env = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    plain = run(sys.executable, "-m", "pip", "install", index, "absent-package==1", env=env)
    assert "is ignored: it is neither a file nor a directory" in plain.stderr
    result = install(tmp_path, index, "absent-package==1")
    assert result.returncode == 1
    assert "is ignored" not in result.stdout + result.stderr
    assert "ERROR: No matching distribution found for absent-package==1" in result.stdout


# Targets and CI -----------------------------------------------------------------------------------


def test_make_help_has_a_line_for_each_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split()
    lines = run("make", "--no-print-directory", "help").stdout.splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == targets
    assert all(len(line.split()) > 2 for line in lines)


def continuous_integration(tmp_path: Path, tools: Path, *, user: str) -> str:
    """Run .ci/run among programs that only note their calls; return these and the exit code."""
    (tmp_path / ".ci").mkdir()
    script = Path(shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run"))
    calls = tmp_path / "calls"
    program(tools / "id", f"echo {user}")
    program(tools / "apt-get", f'echo apt-get "$@" >> {calls}; exit 100')
    program(tools / "make", f'echo make "$@" >> {calls}; exit 3')
    result = run(script, env={"PATH": str(tools)}, cwd=tmp_path)
    return f"{calls.read_text()}exit {result.returncode}"


def test_ci_installs_the_services_as_root_and_lets_no_test_skip_for_want_of_them(
    tmp_path: Path, tools: Path
) -> None:
    calls = continuous_integration(tmp_path, tools, user="0").splitlines()
    assert calls[0] == "apt-get update -qq"
    assert re.fullmatch(r"apt-get install .*chromium", calls[1])
    assert calls[2:] == ["make test PYTEST_ARGS=--strict-services", "exit 3"]


def test_ci_installs_nothing_as_another_user(tmp_path: Path, tools: Path) -> None:
    calls = continuous_integration(tmp_path, tools, user="1000").splitlines()
    assert calls == ["make test PYTEST_ARGS=--strict-services", "exit 3"]


# Programs that some tests need --------------------------------------------------------------------


def test_the_newest_postgresql_is_used(tmp_path: Path) -> None:
    assert services.postgresql(tmp_path) is None
    for version in ("9", "15", "17"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "initdb").touch()
    assert services.postgresql(tmp_path) == tmp_path / "17" / "bin"


def test_a_chromium_that_does_not_run_is_none(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tools))
    assert services.chromium() is None
    shim(tools, "chromium")
    assert services.chromium() is None
    program(tools / "chromium-browser", "echo Chromium 150")
    assert services.chromium() == str(tools / "chromium-browser")


@pytest.mark.parametrize(
    ("option", "outcome"),
    [("-rs", "1 passed, 1 skipped"), ("--strict-services", "1 passed, 1 error")],
)
def test_a_test_whose_service_is_missing_skips_and_fails_where_services_are_demanded(
    tmp_path: Path, tools: Path, option: str, outcome: str
) -> None:
    file = tmp_path / "test_browser.py"
    file.write_text(
        "import pytest\n"
        "@pytest.mark.needs('chromium')\n"
        "def test_a_browser(): raise AssertionError('a browser was needed')\n"
        "def test_without_a_browser(): pass\n"
    )
    env = {"PATH": str(tools), "PYTHONPATH": str(ROOT / "tests")}
    pytest_options = ("-p", "conftest", "-p", "no:cacheprovider", "--rootdir", tmp_path)
    result = run(sys.executable, "-m", "pytest", *pytest_options, option, file, env=env)
    assert outcome in result.stdout.splitlines()[-1], result.stdout + result.stderr
    assert "no chromium: install chromium, or run .ci/run as root" in result.stdout
