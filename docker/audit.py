"""Look for known vulnerabilities of the packages that lock files pin, with pip-audit.

    .venv/bin/python docker/audit.py docker/torch.lock docker/cpu.lock [OPTION OF PIP-AUDIT...]

The exit code is 1 if a package has a known vulnerability, or if pip-audit fails. A line says so and
the code is 0 if the database cannot be reached: without a network, or where the registry has none.
The database is PyPI's, unless the variables of pip-audit name another.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PIP_AUDIT = (
    *(sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format=json"),
    *("--progress-spinner=off", "--timeout=5"),
)
# Without the local part ("+cpu"): the database knows the versions of PyPI only.
PIN = re.compile(r"^[\w.-]+==[\w.!]+", re.MULTILINE)
PROBE_SECONDS = 30.0
AUDIT_SECONDS = 300.0
# The end of pip-audit's errors when an answer does not come, or is none of the database's.
NO_ANSWER = re.compile(
    r"^(?:requests|urllib3)\.\S*(?:Error|Timeout)|network may be blocking", re.MULTILINE
)
UNREACHABLE = "pip-audit: the database cannot be reached; skipped"


class AuditError(Exception):
    """pip-audit failed, and not for want of an answer; the message is its own."""


def main(arguments: Sequence[str]) -> int:
    """Audit the packages that the lock files pin, and return the exit code."""
    options = [argument for argument in arguments if argument.startswith("-")]
    locks = [Path(argument) for argument in arguments if not argument.startswith("-")]
    pins = sorted({pin for lock in locks for pin in PIN.findall(lock.read_text())})
    try:
        # The first package alone shows whether there is a database, before hundreds wait for it.
        known = audit(pins[:1], options, PROBE_SECONDS) and audit(pins, options, AUDIT_SECONDS)
    except AuditError as error:
        print(f"pip-audit failed:\n{error}")
        return 1
    return report(known, len(pins)) if known else say_unreachable()


def audit(pins: Sequence[str], options: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Return pip-audit's entries of the packages that the database knows; none without an answer.

    Raises AuditError if pip-audit fails for another reason.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins))
        file.flush()
        command = [*PIP_AUDIT, *options, "--requirement", file.name]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return []
    if result.stdout.startswith("{"):
        entries: list[dict[str, Any]] = json.loads(result.stdout)["dependencies"]
        return [entry for entry in entries if "skip_reason" not in entry]
    if NO_ANSWER.search(result.stderr):
        return []
    raise AuditError(result.stderr.strip())


def report(known: Sequence[dict[str, Any]], total: int) -> int:
    """Print each vulnerability and the number of packages; return the exit code."""
    found = [(entry, flaw) for entry in known for flaw in entry["vulns"]]
    for entry, flaw in found:
        names = ", ".join([flaw["id"], *flaw["aliases"]])
        remedy = ", ".join(flaw["fix_versions"]) or "no version mends it yet"
        print(f"{entry['name']} {entry['version']}: {names}; mended in: {remedy}")
        print(f"    {flaw['description'][:300]}")
    print(f"pip-audit: {len(found)} known vulnerabilities in {len(known)} of {total} packages")
    if len(known) < total:
        print("    the database does not know the others")
    return 1 if found else 0


def say_unreachable() -> int:
    """Say that nothing was audited, and return the exit code."""
    print(UNREACHABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
