"""The model card of a pre-trained model, written from its log and its measurements, with the learning curve as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sam3.files import write_atomically, write_text

_NAMES = {"cgF1": "cgF1", "pmF1": "pmF1", "IL_MCC": "IL_MCC", "IL_FPR": "false alarms", "mIoU_hits": "mean IoU of hits"}


def write_card(run: str | Path, card: str | Path, *, hours: float | None = None, remarks: str = "") -> Path:
    """Writes `card` (Markdown) and, beside it, the learning curve (same name, .png).

    Args:
        run: folder of a finished `pretrain`.
        card: path of the Markdown file.
        hours: wall-clock hours of the run; default from the log.
        remarks: what the log does not tell, as a paragraph.

    Raises:
        ValueError: the run is not finished.
    """
    run, card = Path(run), Path(card)
    try:
        table = json.loads((run / "held_out.json").read_text())
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    except OSError as error:
        raise ValueError(f"{run} holds no finished pre-training ({error}); run `workbench pretrain` first") from error
    curve = card.with_suffix(".png")
    write_atomically(curve, lambda path: _plot(lines).savefig(path, format="png", dpi=110))
    hours = (lines[-1]["time"] - lines[0]["time"]) / 3600 if hours is None else hours
    write_text(card, _text(table, hours, curve.name, remarks))
    return card


def _text(table: dict[str, Any], hours: float, curve: str, remarks: str) -> str:
    recipe = table["recipe"]
    return f"""# tiny: the embedded default

A SAM 3 of {table["parameters"] / 1e6:.1f} million parameters, the same architecture as the released 860 million, trained from nothing by
`workbench pretrain` on rendered pictures. It exists so that everything in this repository runs on a fresh machine. It
is no substitute for the released weights: **it knows ten kinds of shapes, twelve colours, four textures and three sizes,
and no photographs.**

## What it was trained on

Scenes of 224 x 224 pixels drawn by `workbench/domains/shapes.py`: two to eleven objects, sometimes more, on plain, graded,
noisy or striped ground, overlapping, shaded, some blurred and grey like photographs, some like printed pages. Phrases name
one to three attributes ("star", "striped blue ring", "large red shape"); half of those asked are absent, most of these
look-alikes (one attribute changed, or two objects' attributes mixed). Known nouns: circle (disc, coin, ball), square (box),
triangle, star, cross (plus), ring (donut), heart, crescent (moon), blob (cell), word (text), and shape or object for
anything but words.

Exemplars: {recipe["exemplar_share"]:.0%} of the present questions carry example boxes or points, positive and negative, drawn a little off. With a
made-up word or without words, an example means "same kind and colour". Unknown words alone were never taught to mean
"absent".

## How

`workbench pretrain --out runs/tiny` (seed {recipe["seed"]}): {recipe["dense_steps"]} steps in which every cell of the feature maps names its object,
outline and phrases, then {recipe["full_steps"]} steps of the whole model with the detector's own losses plus probe queries, then
{recipe["outline_steps"]} steps of the mask head and the fine maps alone; {recipe["images"]} pictures a step, AdamW, averaged weights. {hours:.1f} hours on two shared CPU cores, no GPU. Presence and match scores were then
shifted on {table["calibration"]["scenes"]} validation scenes so that 0.5 is the best threshold (presence {table["calibration"]["presence_shift"]:+.2f}, match x {table["calibration"]["match_factor"]:.1f}).
{f"{chr(10)}{remarks}{chr(10)}" if remarks else ""}
![learning curve]({curve})

## What it reaches

{table["pairs"]} (picture, phrase) pairs of {table["scenes"]} held-out scenes, {table["positive_pairs"]} present and {table["pairs"] - table["positive_pairs"]} absent, with the shipped fp16 weights. cgF1,
pmF1 and mean IoU in per cent, IL_MCC from -1 to 1.

{_rows("threshold", table["text"])}

By what the phrase names, at 0.5:

{_rows("phrase names", table["by_form"])}

With exemplars, at 0.5 (only present phrases get exemplars; absent ones are asked by phrase):

{_rows("prompt", table["exemplars"])}

One picture with eight phrases took {table["seconds_per_picture"] * 1000:.0f} ms on two CPU cores, masks and scoring included.

## Limits

- Real photographs are foreign to it; before adaptation it finds little there. That is what the recipes start from.
- Words it was not taught mean nothing reliable to it, present or absent, unless an example box comes with them.
- At most {table["queries"]} objects per phrase; objects under about 10 pixels of 224 are lost; masks are 64 x 64, enlarged.
- All numbers above come from the renderer that also made the training scenes, with other seeds.

Licence: Apache-2.0. No outside data or weights went into it.
"""


def _rows(first: str, values: dict[str, dict[str, float]]) -> str:
    head = [first, *(["pairs"] if any("pairs" in row for row in values.values()) else []), *_NAMES.values()]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, row in values.items():
        cells = [name, *([str(row["pairs"])] if "pairs" in row else [])]
        for key in _NAMES:
            cells.append(f"{row[key]:.2f}" if key == "IL_MCC" else f"{100 * row[key]:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _plot(lines: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    dense = [line for line in lines if line["stage"] == "dense"]
    for name, colour in (("kind", "#0072B2"), ("colour", "#D55E00"), ("texture", "#009E73")):
        values = [line[name] for line in dense]
        width = max(1, len(values) // 40)
        smooth = [
            sum(values[max(0, i - width) : i + 1]) / len(values[max(0, i - width) : i + 1]) for i in range(len(values))
        ]
        left.plot([line["step"] for line in dense], smooth, label=name, color=colour)
    left.set(title="Stage 1: naming the object under a cell", xlabel="step", ylabel="accuracy", ylim=(0, 1))
    left.legend(frameon=False)
    checks = [line for line in lines if line["stage"] == "validation"]
    steps, before = [0], 0
    for line in checks:  # steps begin anew with stage 3, and with every run that went on from another one's weights
        before = steps[-1] if line["step"] <= steps[-1] - before else before
        steps.append(before + line["step"])
    for name, colour in (("cgF1", "#0072B2"), ("pmF1", "#D55E00"), ("IL_MCC", "#009E73")):
        right.plot(steps[1:], [line[f"{name}@0.5"] for line in checks], "o-", label=name, color=colour)
    right.set(title="Stages 2 and 3: 200 validation pairs, threshold 0.5", xlabel="step", ylim=(-0.05, 1))
    right.legend(frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
