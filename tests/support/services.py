"""Programs that some tests need and a machine may lack.

A test that needs one has the mark `needs`, for example `@pytest.mark.needs("postgresql")`. Where
the program is missing, the test skips and its reason says what to install. With the option
`--strict-services`, which `.ci/run` sets, it fails instead.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

POSTGRESQL = Path("/usr/lib/postgresql")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def postgresql(root: Path = POSTGRESQL) -> Path | None:
    """Return the directory with initdb and postgres of the newest PostgreSQL, if there is one."""
    directories = [path.parent for path in root.glob("*/bin/initdb")]
    return max(directories, key=lambda path: int(path.parent.name), default=None)


def chromium() -> str | None:
    """Return the path of a Chromium that runs, if there is one."""
    return next((path for name in CHROMIUM if (path := shutil.which(name)) and _runs(path)), None)


def _runs(path: str) -> bool:
    """Does the program print its version? A placeholder for a missing package does not."""
    try:
        result = subprocess.run([path, "--version"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0


SERVICES: dict[str, tuple[Callable[[], object], str]] = {
    "postgresql": (postgresql, "install postgresql-15, or run .ci/run as root"),
    "chromium": (chromium, "install chromium, or run .ci/run as root"),
}


def reason_missing(name: str) -> str | None:
    """Return why a test that needs a program cannot run here, with the remedy; None if it can."""
    find, remedy = SERVICES[name]
    return None if find() else f"no {name}: {remedy}"
