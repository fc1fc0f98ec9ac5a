"""Compute each prompt once: the responses to one prompt share its keys and values.

Rollouts of one question have the same prompt. In padded rows a model computes it once for each
response. Here the tokens of a batch stand in one row without padding: the prompts, then the
responses.

    prompt 1 | prompt 2 | … | response 1 | response 2 | …

Attention takes two calls in each layer: prompts attend to themselves, and each response attends to
its own prompt and to itself. No response attends to another one. Each response begins at the
position at which its prompt ends, so its states are those of the padded row, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tempo_trainer.algorithm.batch import Batch, Rollout

NAME = "tempo_shared_prefix"
KNOWN_LAYERS = {"full_attention", "sliding_attention"}
SHORT = 256
"""Rows of at most so many queries are attended to in float32 on a CPU. The gradient of torch's
attention takes three to four times longer there in bfloat16; in longer rows it is faster."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of B responses to U prompts stand; N tokens in all.

    P and R are the longest prompt and response. Padding points to token 0, and masks hide it.
    """

    ids: Tensor  # (1, N)
    position_ids: Tensor  # (1, N)
    prompt_index: Tensor  # (U, P) token of each place of a prompt
    response_index: Tensor  # (B, R) token of each place of a response
    prompt_of_row: Tensor  # (B,)
    prompt_lengths: Tensor  # (B,) of each response's own prompt
    place: Tensor  # (N,) place of each token in the flattened (U P + B R) outputs of both calls
    before: Tensor  # (T,) token whose state predicts each response token, row after row
    readers: list[int] = field(default_factory=list)
    """Numbers of the layers whose attention read this layout."""

    @classmethod
    def of(cls, batch: Batch) -> Layout:
        """Lay out a batch; rows with equal prompts share one."""
        prompts, prompt_of_row = _distinct_prompts(batch)
        responses = [row[mask.bool()] for row, mask in zip(batch.tokens, batch.mask, strict=True)]
        lengths = torch.tensor([len(tokens) for tokens in (*prompts, *responses)])
        starts = lengths.cumsum(0) - lengths
        prompt_index = _places(starts[: len(prompts)], lengths[: len(prompts)])
        response_index = _places(starts[len(prompts) :], lengths[len(prompts) :])
        prompt_lengths = lengths[: len(prompts)][prompt_of_row]
        offsets = torch.cat([torch.zeros(len(prompts), dtype=torch.long), prompt_lengths])
        within = torch.cat([torch.arange(int(n)) for n in lengths])
        ends = (starts + lengths - 1)[: len(prompts)][prompt_of_row]  # (B,) last prompt tokens
        shifted = torch.cat([ends[:, None], response_index[:, :-1]], dim=1)  # (B, R)
        is_token = [_until(lengths[: len(prompts)]), _until(lengths[len(prompts) :])]
        return cls(
            ids=torch.cat([*prompts, *responses])[None],
            position_ids=(within + offsets.repeat_interleave(lengths))[None],
            prompt_index=prompt_index,
            response_index=response_index,
            prompt_of_row=prompt_of_row,
            prompt_lengths=prompt_lengths,
            place=torch.cat([mask.flatten() for mask in is_token]).nonzero()[:, 0],
            before=shifted[is_token[1]],
        )

    def to(self, device: torch.device) -> Layout:
        """Return the layout on a device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "readers"}
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, **moved)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments with which a model computes these tokens."""
        # The layout has the masks. A mask of four dimensions keeps the model from making its own.
        no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.ids.device)
        return {
            "input_ids": self.ids,
            "position_ids": self.position_ids,
            "attention_mask": no_mask,
            "use_cache": False,
            "layout": self,
        }

    def prompt_mask(self, window: int | None) -> Tensor | None:
        """Return a bool mask (1, 1, P, P) of a prompt's attention; None if it is causal alone."""
        if window is None:
            return None
        place = torch.arange(self.prompt_index.shape[1], device=self.ids.device)
        return _sees(place[:, None], place, window)[None, None]

    def response_mask(self, window: int | None) -> Tensor:
        """Return a bool mask (B, 1, R, P + R): which places of prompt and response a token sees."""
        place = torch.arange(self.prompt_index.shape[1], device=self.ids.device)
        own = torch.arange(self.response_index.shape[1], device=self.ids.device)
        length = self.prompt_lengths[:, None]  # (B, 1)
        query = (length + own)[:, :, None]  # (B, R, 1) positions
        prompt = _sees(query, place, window) & (place < length)[:, None]  # (B, R, P)
        response = _sees(query, (length + own)[:, None], window)  # (B, R, R)
        return torch.cat([prompt, response], dim=2)[:, None]


def enable(base: PreTrainedModel) -> bool:
    """Let a model's attention read a `layout`; return whether all of its layers do.

    A model with another kind of layer, or with an attention of its own, keeps padded rows.
    """
    if base.config._attn_implementation != "sdpa":
        return False
    kinds = set(getattr(base.config, "layer_types", None) or KNOWN_LAYERS)
    if not kinds <= KNOWN_LAYERS:  # linear attention reads the whole row; chunks are masks alone
        return False
    base.set_attn_implementation(NAME)
    probe = Layout.of(_probe(base))
    with torch.no_grad():
        getattr(base, base.base_model_prefix)(**probe.to(base.device).arguments())
    if len(probe.readers) == base.config.num_hidden_layers:
        return True
    base.set_attn_implementation("sdpa")
    return False


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Return the attention's output; queries, keys and values are (1, heads, N, D).

    `sliding_window` is the number of positions that a layer sees, the token's own included.
    """
    if layout is None or settings.get("position_bias") is not None:
        settings["sliding_window"] = sliding_window
        return _attend(module, query, key, value, mask=attention_mask, **settings), None
    layout.readers.append(module.layer_idx)
    prompt = [_gathered(part, layout.prompt_index) for part in (query, key, value)]
    response = [_gathered(part, layout.response_index) for part in (query, key, value)]
    first = _attend(
        module, *prompt, mask=layout.prompt_mask(sliding_window), **settings
    )  # (U, P, heads, D)
    both = [
        torch.cat([before[layout.prompt_of_row], own], dim=2)
        for before, own in zip(prompt[1:], response[1:], strict=True)
    ]
    second = _attend(
        module, response[0], *both, mask=layout.response_mask(sliding_window), **settings
    )  # (B, R, heads, D)
    output = torch.cat([first.flatten(0, 1), second.flatten(0, 1)])
    return output.index_select(0, layout.place)[None], None


def _attend(module: Any, *parts: Tensor, mask: Tensor | None, **settings: Any) -> Tensor:
    """Return torch's attention (rows, length, heads, D), in the precision that is faster.

    `parts` are queries, keys and values, (rows, heads, length, D).
    """
    query = parts[0]
    is_slow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad
    if not is_slow or query.shape[2] > SHORT:
        output: Tensor = sdpa_attention_forward(module, *parts, mask, **settings)[0]
        return output
    with torch.autocast("cpu", enabled=False):  # it would round the parts again
        wide = [part.float() for part in parts]
        output = sdpa_attention_forward(module, *wide, mask, **settings)[0]
    return output.to(query.dtype)


def _probe(base: PreTrainedModel) -> Batch:
    """Return a batch of two responses to one prompt."""
    token = base.config.vocab_size - 1
    row = Rollout("probe", [token] * 3, [token], [0.0], 0, "stop", labeled=False)
    return Batch.collate([row, row], pad_id=0)


def _distinct_prompts(batch: Batch) -> tuple[list[Tensor], Tensor]:
    """Return the distinct prompts, and the number of each row's prompt (B,)."""
    lengths = (batch.positions[:, 0] + 1).tolist()
    numbers: dict[tuple[int, ...], int] = {}
    of_row = []
    prompts: list[Tensor] = []
    for row, length in zip(batch.ids, lengths, strict=True):
        prompt = row[:length]
        number = numbers.setdefault(tuple(prompt.tolist()), len(numbers))
        if number == len(prompts):
            prompts.append(prompt)
        of_row.append(number)
    return prompts, torch.tensor(of_row)


def _gathered(states: Tensor, index: Tensor) -> Tensor:
    """Return (rows, heads, length, D) of (1, heads, N, D) by an index (rows, length)."""
    return states[0][:, index].transpose(0, 1)


def _places(starts: Tensor, lengths: Tensor) -> Tensor:
    """Return the tokens of rows of these lengths, (rows, longest); padding is token 0."""
    steps = torch.arange(int(lengths.max()))
    return (starts[:, None] + steps) * (steps < lengths[:, None])


def _until(lengths: Tensor) -> Tensor:
    return torch.arange(int(lengths.max())) < lengths[:, None]


def _sees(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Tell for each pair of positions whether the query sees the key."""
    causal = key <= query
    return causal if window is None else causal & (query - key < window)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
