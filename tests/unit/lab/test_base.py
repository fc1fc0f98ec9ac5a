"""The small base models: built once, loadable, and in the form that vLLM serves."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tempo_lab.tasks.base import EOS, Recipe, base_directory, build_base
from tempo_lab.tasks.countdown import BARE_COUNTDOWN, puzzles, solutions

TINY = Recipe(hidden=16, layers=1, heads=2, intermediate=16, steps=20, batch=32, warmup=5)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Return the directory of a tiny base and the losses of its training."""
    losses: list[float] = []
    home = tmp_path_factory.mktemp("base")
    return build_base(home, lambda _step, _of, loss: losses.append(loss), recipe=TINY), losses


def test_training_lowers_the_loss(built: tuple[Path, list[float]]) -> None:
    _, losses = built
    assert len(losses) == TINY.steps
    assert losses[-1] < losses[0] - 0.3


def test_a_base_is_built_once(built: tuple[Path, list[float]]) -> None:
    directory, losses = built
    steps: list[int] = []
    again = build_base(directory.parent, lambda *a: steps.append(a[0]), recipe=TINY)
    assert again == directory
    assert steps == []
    assert len(losses) == TINY.steps


def test_another_recipe_is_another_directory() -> None:
    assert len({TINY.digest, replace(TINY, seed=1).digest, Recipe().digest}) == 3
    bare = replace(Recipe(), task=BARE_COUNTDOWN)
    assert base_directory(Path(), bare) != base_directory(Path(), Recipe())


def test_the_base_of_the_demo_is_the_one_that_was_measured() -> None:
    assert base_directory(Path(), Recipe()).name == "countdown-fb83fd88351d"


def test_the_same_recipe_gives_the_same_weights(
    built: tuple[Path, list[float]], tmp_path: Path
) -> None:
    again = build_base(tmp_path, recipe=TINY)
    first, second = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (built[0], again)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_base(tmp_path, interrupt, recipe=TINY)
    assert list(tmp_path.iterdir()) == []


def test_a_question_renders_to_8_tokens_and_a_response_to_14(
    built: tuple[Path, list[float]],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built[0])
    puzzle = puzzles()[100]
    message = [{"role": "user", "content": puzzle.question}]
    prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"]
    response = solutions(puzzle)[0].attempt(puzzle.target)
    assert len(prompt) == 8  # with <bos>
    assert len(tokenizer.encode(response)) + 1 == 14  # and <eos>


def test_decoding_gives_the_words_back(built: tuple[Path, list[float]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built[0])
    text = solutions(puzzles()[0])[0].attempt(puzzles()[0].target)
    assert tokenizer.decode([*tokenizer.encode(text), EOS], skip_special_tokens=True) == text


def test_an_unknown_word_is_encoded_as_padding(built: tuple[Path, list[float]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built[0])
    assert tokenizer.encode("use hello") == [*tokenizer.encode("use"), tokenizer.pad_token_id]


def test_by_default_generation_stops_at_eos_and_samples_at_temperature_1(
    built: tuple[Path, list[float]],
) -> None:
    config = AutoModelForCausalLM.from_pretrained(built[0]).generation_config
    assert (config.eos_token_id, config.temperature, config.top_p) == (EOS, 1.0, 1.0)
