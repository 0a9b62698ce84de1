"""What attention layers look at while a model answers, as numbers and as maps. A model and the names of its layers come
in; weights go out, computed again from what each layer received. Nothing of the answer changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sam3.layers import Attention, rotate


def attention_layers(model: nn.Module) -> tuple[str, ...]:
    """The names of all attention layers of a model, in the order in which they were built.

    Example:
        >>> from sam3.config import Sam3Config
        >>> from sam3.model import Sam3
        >>> [name for name in attention_layers(Sam3(Sam3Config.tiny())) if "decoder.layers.0" in name][:2]
        ['detector.decoder.layers.0.self_attention', 'detector.decoder.layers.0.prompt_attention']
    """
    return tuple(name for name, module in model.named_modules() if isinstance(module, Attention))


@contextmanager
def watch_attention(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within this context every answer of the model leaves the weights of some attention layers.

    Args:
        model: any module that holds the layers.
        names: of layers, from `attention_layers(model)`. Every one holds B x heads x L x S numbers, so ask for few.

    Yields:
        name -> (B, heads, L, S) float32 on the CPU: how much each of L queries takes of each of S values, in sum 1;
        of the layer's last call.

    Raises:
        ValueError: the model has no attention layer of that name.

    Example:
        >>> from sam3.layers import Attention
        >>> model = nn.ModuleDict({"look": Attention(8, 2)})
        >>> with watch_attention(model, ["look"]) as seen:
        ...     _ = model["look"](torch.randn(1, 3, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8))
        >>> seen["look"].shape, bool(seen["look"].sum(-1).allclose(torch.ones(1)))
        (torch.Size([1, 2, 3, 5]), True)
    """
    seen: dict[str, Tensor] = {}
    hooks = []
    try:
        for name in names:
            hooks.append(_layer(model, name).register_forward_pre_hook(_keeper(seen, name), with_kwargs=True))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def attention_weights(
    layer: Attention,
    query: Tensor,
    key: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    rotary: tuple[Tensor, Tensor] | None = None,
    key_rotary: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The weights (B, heads, L, S) with which a layer mixes its values; arguments as in `Attention.forward`."""
    q = layer.q(query).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2).float()
    k = layer.k(key).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2).float()
    if rotary is not None:
        q, k = rotate(q, *rotary), rotate(k, *(key_rotary or rotary))
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if is_causal:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.float()
    return logits.softmax(-1)


def _layer(model: nn.Module, name: str) -> Attention:
    found = dict(model.named_modules()).get(name)
    if not isinstance(found, Attention):
        known = attention_layers(model)
        raise ValueError(
            f"{name!r} is no attention layer of this model; expected one of its {len(known)}, such as "
            f"{', '.join(known[:3])}"
        )
    return found


def _keeper(seen: dict[str, Tensor], name: str) -> Any:
    @torch.no_grad()
    def keep(layer: Attention, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        given = dict(zip(("query", "key", "value"), inputs, strict=False)) | options
        given.pop("value", None)
        seen[name] = attention_weights(layer, **given).cpu()

    return keep
