"""Install packages with pip into the environment of the Python that runs this file.

    .venv/bin/python docker/install.py --require-hashes -r docker/cpu.lock  # as `pip install`

Only the named packages are installed, without their dependencies. A line at least every 15 seconds
says how far the installation is. pip warns about each package that a configured local index lacks;
these warnings are left out. Every other warning and every error is shown.
"""

import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))

from tempo_lab.serving.progress import Reporter
from tempo_trainer.worker.background import repeated_in_thread

PIP_INSTALL = (
    *("pip", "install", "--no-deps", "--no-input"),
    *("--disable-pip-version-check", "--progress-bar", "off"),
)
NOISE = re.compile(r"WARNING: Location '.*' is ignored: it is neither a file nor a directory")
COMPLAINT = re.compile(r"(WARNING|ERROR|DEPRECATION|error)\b")
COLLECTED = re.compile(r"(Collecting|Processing|Obtaining|Requirement already satisfied:) ")
SECONDS_PER_PACKAGE = 1.0  # on two cores, with a fast network
LAST_LINES = 30


def main(arguments: Sequence[str]) -> int:
    """Install the packages that the arguments name, and return pip's exit code."""
    total = count_requirements(arguments)
    last = "this project" if arguments[-1] == "." else arguments[-1]
    name = f"installing {total} packages" if total > 1 else f"installing {last}"
    start = time.monotonic()
    with Reporter({name: total * SECONDS_PER_PACKAGE}, say) as reporter:
        reporter.begin(name)
        code = run_pip(arguments, total, reporter)
    say(f"{name}: {'failed' if code else 'done'} in {time.monotonic() - start:.0f} s")
    return code


def run_pip(arguments: Sequence[str], total: int, reporter: Reporter) -> int:
    """Run pip, report its progress and show its complaints; return its exit code."""
    lines: list[str] = []
    installed_before = count_installed()

    def update() -> float:
        collected = sum(bool(COLLECTED.match(line)) for line in lines)
        installed = max(0, count_installed() - installed_before)
        text = f"{collected} collected, {installed} installed"
        reporter.update(text, collected + installed, 2 * total)
        return 1.0

    command = [sys.executable, "-m", *PIP_INSTALL, *arguments]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process,
        repeated_in_thread(update, 1.0),
    ):
        for line in process.stdout or ():
            if NOISE.match(line):
                continue
            lines.append(line)
            if COMPLAINT.match(line):
                say(line.rstrip())
    if process.returncode:
        say(f"the last lines of pip:\n{''.join(lines[-LAST_LINES:]).rstrip()}")
    return process.returncode


def count_requirements(arguments: Sequence[str]) -> int:
    """Return how many packages the arguments name, in files of requirements or themselves."""
    total = 0
    previous = ""
    for argument in arguments:
        if previous in ("-r", "--requirement"):
            lines = Path(argument).read_text().splitlines()
            total += sum(line[:1].isalnum() for line in lines)  # no comment, no hash
        elif not argument.startswith("-") and not previous.endswith(("index-url", "find-links")):
            total += 1
        previous = argument
    return total


def count_installed() -> int:
    """Return how many packages are installed beside the Python that runs this file."""
    return len(list(Path(sysconfig.get_path("purelib")).glob("*.dist-info")))


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
