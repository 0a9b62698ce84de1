"""What bf16 and int8 change: the quality of the tiny model, and masks of a model of any size with random weights.

    python benchmarks/precision.py --out benchmarks/results/precision.json
    python benchmarks/precision.py --size sam3 --scenes 0        # the released size, 8 GB

Masks are those of the queries with the highest scores, the same queries in every precision; their overlap with those of
fp32 is averaged over queries. Random weights react more to rounding than trained ones.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import typer
from random_models import SIZES

from sam3.checkpoint import load_sam3, save
from sam3.files import write_text
from sam3.image_encoder import to_pixel_values
from sam3.model import Sam3
from sam3.prompts import Prompt
from sam3.speed import Precision
from workbench.domains.shapes import held_out_set
from workbench.evaluate import evaluate

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
NUM_QUERIES = 5
PHRASES = ("red circle", "blue star")


def masks_of(model: Sam3, queries: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (P, N, H, W) of N queries of each phrase, and which queries (P, N); default those with the best scores."""
    side = model.config.image_encoder.image_size
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    pixels = to_pixel_values(small, side)[None].to(model.dtype)
    with torch.inference_mode():
        output = model.detect(pixels, [[Prompt(phrase) for phrase in PHRASES]])
        queries = output.scores.topk(NUM_QUERIES).indices if queries is None else queries
        pair = torch.arange(len(PHRASES))[:, None].expand_as(queries)
        masks = output.masks_of(pair.flatten(), queries.flatten()) > 0
    return masks.unflatten(0, queries.shape), queries


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean intersection over union of masks; two empty ones are equal."""
    both, either = (one & other).flatten(2).sum(-1), (one | other).flatten(2).sum(-1)
    return float(torch.where(either > 0, both / either.clamp(min=1), 1.0).mean())


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    size: Annotated[str, typer.Option(help=f"Of the random model: {', '.join(SIZES)}.")] = "reduced",
    scenes: Annotated[int, typer.Option(min=0, help="Rendered scenes the tiny model is asked about.")] = 200,
) -> None:
    """Quality and masks in every precision."""
    if size not in SIZES:
        raise typer.BadParameter(f"received {size!r}; expected {', '.join(SIZES)}", param_hint="--size")
    rows: list[dict[str, Any]] = []
    exact = queries = None
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        save(Sam3(SIZES[size].without_tracker()), Path(folder) / "model.safetensors")
        for precision in PRECISIONS:
            row: dict[str, Any] = {"precision": precision}
            if scenes:
                tiny = load_sam3("tiny", precision=precision)
                row["cgf1"] = evaluate(tiny, held_out_set(scenes, 5), model_name="tiny").metrics["cgF1"]
            masks, queries = masks_of(load_sam3(Path(folder) / "model.safetensors", precision=precision), queries)
            exact = masks if exact is None else exact
            row["mask_iou"] = overlap(exact, masks)
            rows.append(row)
            quality = f"   tiny, {scenes} scenes: cgF1 {100 * row['cgf1']:.1f}" if scenes else ""
            typer.echo(f"{precision:<5} {size}, random weights: masks overlap {row['mask_iou']:.3f}{quality}")
    if out is not None:
        facts = {"size": size, "scenes": scenes, "torch": torch.__version__, "machine": platform.machine()}
        write_text(out, json.dumps({**facts, "precisions": rows}, indent=1))
        typer.echo(f"Written to {out}")


if __name__ == "__main__":
    typer.run(main)
