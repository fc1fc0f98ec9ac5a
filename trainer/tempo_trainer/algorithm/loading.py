"""Say in one line why a base cannot be loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoConfig

from tempo_storage.errors import TempoError

MAX_CHARACTERS = 300  # of an error of transformers


class UnsupportedModelError(TempoError, ValueError):
    """The base cannot be loaded, or its lm_head does not give its own log-probabilities."""


def check_base(model_dir: str | Path) -> None:
    """Raise UnsupportedModelError unless transformers can read the configuration of a model."""
    with loading_errors(model_dir):
        AutoConfig.from_pretrained(str(model_dir))


def is_fast_in_bfloat16(model_dir: str | Path) -> bool:
    """Tell whether this CPU multiplies bfloat16 matrices itself, and the model is stored so.

    SmolLM2 then learns several times faster, in the precision that vLLM serves it in.
    """
    has_amx: bool = torch.cpu._is_amx_tile_supported()
    with loading_errors(model_dir):
        return has_amx and AutoConfig.from_pretrained(str(model_dir)).dtype == torch.bfloat16


@contextmanager
def loading_errors(model_dir: str | Path) -> Iterator[None]:
    """Raise UnsupportedModelError, with one line, where transformers fails in the block."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        remedy = "give a directory with config.json and weights, or the id of a model on the hub"
        if isinstance(error, ImportError):  # of a quantised base; the text names the package
            remedy = "install it where the trainer runs, or take a base that is not quantised"
        reason = " ".join(str(error).split())[:MAX_CHARACTERS].rstrip(".")
        raise UnsupportedModelError(f"cannot load {model_dir}: {reason}; {remedy}") from error
