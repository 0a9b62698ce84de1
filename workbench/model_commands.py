"""The command `workbench merge`; `__main__.py` adds it to the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.command_options import Debug

if TYPE_CHECKING:
    from sam3.checkpoint import Layout
    from sam3.model import Sam3
    from workbench.adapters import Adapter

_ENDINGS: dict[Layout, tuple[str, str]] = {
    "workbench": (".safetensors", "a file that ends with .safetensors"),
    "native": (".pt", "a file that ends with .pt"),
    "transformers": ("", "a folder"),
}


def merge_adapter(
    adapter: Annotated[Path, typer.Argument(help="The folder `adapter` that `workbench adapt` wrote.")],
    out: Annotated[
        Path, typer.Option(help="New .safetensors file (workbench), .pt file (native) or folder (transformers).")
    ],
    model: Annotated[
        str, typer.Option(help="What it was trained on: 'tiny', a weight file, a folder or a hub name.")
    ] = "tiny",
    layout: Annotated[str, typer.Option(help="workbench, native or transformers.")] = "workbench",
    debug: Debug = False,
) -> None:
    """Fold an adapter into its base, as ordinary weights that other programs read.

    The weights answer as base and adapter do. Learnt words then count in every phrase that uses them; an adapter whose
    phrases learnt different things for the same word cannot be merged.

    \b
    Examples:
      workbench merge runs/coins/adapter --out coins.safetensors
      workbench merge runs/coins/adapter --out coins --layout transformers
    """
    from sam3.checkpoint import load_sam3, save
    from workbench.adapters import load_adapter

    form = _form(layout, out)
    handle = load_adapter(load_sam3(model), adapter)
    plan, phrases, base = handle.plan, handle.phrases, handle.base
    merged = _merged(handle)
    save(merged, out, form, metadata={"adapted": plan.name, "phrases": ", ".join(phrases), "base": base})
    files = [out] if out.is_file() else list(out.iterdir())
    size = sum(file.stat().st_size for file in files) / 1e6
    typer.echo(f"{model} + {adapter} ({plan.name}, {', '.join(phrases)}) in {layout} layout: {out}, {size:.1f} MB")
    for note in _notes(merged, form, phrases if plan.kind.learns_words else ()):
        typer.echo(note)
    if form == "transformers":
        kind = "Sam3Model" if merged.tracker is None else "Sam3VideoModel"
        typer.echo(f"Load it with transformers.{kind}.from_pretrained({str(out)!r}), or with --model {out}")
    else:
        typer.echo(f"Use it as any model: workbench predict PICTURE --model {out} --phrase {phrases[0]!r} --out FOLDER")


def _form(layout: str, out: Path) -> Layout:
    """The layout, when `out` can hold it and is new."""
    if layout not in _ENDINGS:
        raise ValueError(f"--layout received {layout!r}; expected {', '.join(_ENDINGS)}")
    ending, expected = _ENDINGS[layout]
    if out.suffix != ending and (ending or out.suffix in {e for e, _ in _ENDINGS.values()}):
        raise ValueError(f"--out received {out}; the {layout} layout is written to {expected}")
    if out.exists():
        raise ValueError(f"{out} exists already; give a new name, so that no weights are lost")
    return layout


def _merged(adapter: Adapter) -> Sam3:
    """The model with the adapter in its weights, when it still gives the same answers."""
    import numpy as np

    from workbench.adapter_files import probe
    from workbench.adapters import merge

    expected = probe(adapter.model, adapter.phrases)
    model = merge(adapter)
    gap = np.abs(np.subtract(probe(model, adapter.phrases), expected)).max()
    if gap > 1e-3:
        raise ValueError(
            f"the merged weights answer a test picture differently than base and adapter (by up to {gap:.2g}), so "
            "nothing was written; go on using the adapter with --adapter"
        )
    return model


def _notes(model: Sam3, layout: Layout, learnt: tuple[str, ...]) -> list[str]:
    """What differs from base and adapter, for who reads the weights next."""
    notes = []
    if learnt:
        notes.append(f"What the words of {', '.join(learnt)} learnt now counts in every phrase that uses them.")
    if layout == "transformers":
        notes.append("Not in it: example points, which transformers has no weights for.")
    others = sorted({name.split(".")[0] for name in model.load_report.left_out} - {"detector"})
    if others:
        notes.append(f"Not in it: {', '.join(others)} of the base, which an image model has no use for.")
    return notes
