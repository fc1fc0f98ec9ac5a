"""A base that cannot be loaded is refused in one line, with the remedy."""

import json
from pathlib import Path

import pytest
import tiny

from tempo_trainer.algorithm.loading import UnsupportedModelError, check_base
from tempo_trainer.algorithm.networks import Networks


@pytest.mark.parametrize("model", ["/not/there", "org/none", "a file"])
def test_a_wrong_model_is_refused_in_one_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if model == "a file":
        (tmp_path / "model").write_text("{}")
        model = str(tmp_path / "model")
    for load in (check_base, lambda name: Networks.load(name, tiny.settings())):
        with pytest.raises(UnsupportedModelError) as failure:
            load(model)
        message = str(failure.value)
        assert message.startswith(f"cannot load {model}: ")
        assert message.endswith("or the id of a model on the hub")
        assert "\n" not in message


def test_a_quantised_base_names_the_package_that_is_missing(tmp_path: Path) -> None:
    tiny.model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 8}
    path.write_text(json.dumps(config))
    with pytest.raises(
        UnsupportedModelError, match=r"pip install (gptqmodel|accelerate)"
    ) as failure:
        Networks.load(tmp_path, tiny.settings())
    assert str(failure.value).endswith("or take a base that is not quantised")
    assert "\n" not in str(failure.value)
