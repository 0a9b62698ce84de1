"""What trades exactness or a slow start for speed: number formats and compilation.

In: a `Sam3`. Out: the same model, changed in place.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from torch import nn

if TYPE_CHECKING:
    from sam3.model import Sam3

Precision = Literal["fp32", "bf16", "fp16", "int8"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,  # of everything but the layers in eight bits
}

_NOT_BOTH = "int8 layers cannot be compiled; choose one of both"


def set_precision(model: Sam3, precision: Precision) -> Sam3:
    """Changes the numbers that the model calculates with, and returns it.

    `int8` keeps the weights of all linear layers of the image and the text encoder in eight bits, a scale for each
    output channel, and rounds what comes in as it comes; everything else stays float32. It is for CPUs, and for use
    only: adapters are loaded first, and nothing can be trained or saved afterwards. Adapters that reach into the
    encoders (plan `lora`) have to be merged before.

    Args:
        model: on its device.
        precision: "fp32", "bf16", "fp16" or "int8".

    Raises:
        ValueError: the precision is unknown; int8 on another device than the CPU, or twice, or over an adapter in the
            encoders, or over compiled layers; another one after int8.

    Example:
        >>> from sam3 import ImagePredictor, load_sam3
        >>> predictor = ImagePredictor(set_precision(load_sam3("tiny"), "int8"))
        >>> predictor.model.precision
        'int8'
    """
    as_precision(precision)
    if model.precision == "int8":
        raise ValueError("the model is in int8 already, and cannot go back; load it anew")
    if precision == "int8":
        towers = (model.image_encoder.blocks, model.detector.text_encoder)
        if model.device.type != "cpu":
            raise ValueError(f"int8 is for CPUs, and the model is on {model.device}; use bf16 there, or the device cpu")
        if model.is_compiled:
            raise ValueError(_NOT_BOTH)
        if any("lora_" in name for tower in towers for name, _ in tower.named_parameters()):
            raise ValueError("an adapter reaches into the encoders; merge it (`workbench merge`), then use int8")
        model.float()
        for tower in towers:
            _to_int8(tower)
    else:
        model.to(DTYPES[precision])
    model.precision = precision
    return model


def as_precision(precision: str) -> Precision:
    """The name itself; raises ValueError when there is no such precision."""
    if precision not in get_args(Precision):
        raise ValueError(f"received precision {precision!r}; expected one of {', '.join(get_args(Precision))}")
    return cast(Precision, precision)


def compile_model(model: Sam3) -> Sam3:
    """Has PyTorch translate the layers that take most of the time, and returns the model.

    The first picture, the first phrase and every new number of phrases asked at once then take longer, up to minutes.
    Weights, names and answers stay the same but for rounding.

    Raises:
        ValueError: the model is in int8.
    """
    if model.precision == "int8":
        raise ValueError(_NOT_BOTH)
    first, *others = model.detector.fusion_encoder.layers
    for layer in (*model.image_encoder.blocks, *others, *model.detector.decoder.layers):
        layer.compile()
    # The first layer is called in two halves.
    first.attend, first.fuse = torch.compile(first.attend), torch.compile(first.fuse)  # type: ignore[assignment, arg-type]
    model.is_compiled = True
    return model


def precision_times(width: int = 1024, rows: int = 2048, repeats: int = 3) -> dict[Precision, float]:
    """Seconds that a large linear layer takes on this CPU in fp32, bf16 and int8: which precision pays here.

    Takes a few seconds. Processors differ: without instructions for bf16 it takes several times as long as fp32, with
    them half.

    Args:
        width, rows: the layer takes (rows, width) to (rows, 4 width).
        repeats: the quickest of so many counts.

    Example:
        >>> sorted(precision_times(64, 64))
        ['bf16', 'fp32', 'int8']
    """
    times: dict[Precision, float] = {}
    for precision in ("fp32", "bf16", "int8"):
        layer = nn.Sequential(nn.Linear(width, 4 * width)).requires_grad_(False)
        x = torch.rand(rows, width)
        if precision == "int8":
            _to_int8(layer)
        else:
            layer, x = layer.to(DTYPES[precision]), x.to(DTYPES[precision])
        with torch.inference_mode():
            layer(x)
            taken = []
            for _ in range(repeats):
                start = time.perf_counter()
                layer(x)
                taken.append(time.perf_counter() - start)
        times[precision] = min(taken)
    return times


def _to_int8(module: nn.Module) -> None:
    # torchao is what PyTorch advises now; on CPUs its int8 layers were slower than float32 alone and 1.4 times as fast
    # compiled, where these are twice as fast.
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(module, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)
