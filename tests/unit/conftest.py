"""Shape annotations are checked in tests only: jaxtyping's hook wraps these modules at import."""

import importlib

import torch
from jaxtyping import install_import_hook

CHECKED = tuple(
    f"tempo_trainer.algorithm.{name}" for name in ("objective", "heads", "networks", "steps")
)

with install_import_hook(CHECKED, "beartype.beartype"):
    for name in CHECKED:
        importlib.import_module(name)

# On busy cores, threads that wait for one another make small models a hundred times slower.
torch.set_num_threads(1)
