"""The model card's section about the tracker, written from its run, with the learning curve as a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sam3.files import write_atomically, write_text

_TITLE, _NEXT = "## The tracker", "## Limits"
_OPENING = re.compile(
    r"A SAM 3 of [0-9.]+ million parameters(?:, [0-9.]+ of them the tracker's)?, the same architecture as the released "
    r"\d+ million,"
)


def write_tracker_card(run: str | Path, card: str | Path, *, remarks: str = "") -> Path:
    """Puts the section about the tracker into a model card, in place of an earlier one, and the curve beside it.

    Args:
        run: folder of a finished `pretrain_tracker`.
        card: the card that `write_card` wrote; the rest of it stays as it is, but for the number of parameters.
        remarks: what the log does not tell, as a paragraph.

    Raises:
        ValueError: the run is not finished or of an earlier version, or the card is not one of ours.
    """
    run, card = Path(run), Path(card)
    try:
        table = json.loads((run / "tracking.json").read_text())
        found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    except OSError as error:
        raise ValueError(
            f"{run} holds no finished tracker ({error}); run `workbench pretrain-tracker` first"
        ) from error
    lines = list({(line["stage"], line["step"]): line for line in found}.values())  # a step may have been done again
    text = card.read_text()
    before, limits, after = text.partition(f"{_NEXT}\n")
    if not limits or not _OPENING.search(before):
        raise ValueError(f"{card} is no card that `write_card` wrote; write that one first")
    opening = (
        f"A SAM 3 of {table['parameters'] / 1e6:.1f} million parameters, {table['trained'] / 1e6:.1f} of them the "
        "tracker's, the same architecture as the released 860 million,"
    )
    before = _OPENING.sub(opening, before.partition(f"{_TITLE}\n")[0], count=1)
    curve = card.with_name(f"{card.stem}_tracker.png")
    try:
        section = _section(table, lines, curve.name, remarks)
    except KeyError as error:
        raise ValueError(
            f"{run}/tracking.json tells no {error}: an earlier version wrote it; run `workbench pretrain-tracker` again"
        ) from error
    write_atomically(curve, lambda path: _plot(lines).savefig(path, format="png", dpi=110))
    write_text(card, f"{before}{section}\n{_NEXT}\n{after}")
    return card


def _section(table: dict[str, Any], lines: list[dict[str, Any]], curve: str, remarks: str) -> str:
    recipe, follow, survival = table["recipe"], table["follow"], table["survival"]
    stages = recipe["stages"]
    starts = [index for index, stage in enumerate(stages) if stage["starts_memory"]]
    steps = ",\nthen ".join(_stage(stage, is_set_back=index in starts[1:]) for index, stage in enumerate(stages))
    began = "\nMemory began by comparing looks (`workbench/pretrain/matching.py`)" if starts else ""
    began += ", and was set back to that where the steps say so" if starts[1:] else ""
    shares = recipe["hinting"]
    minutes = sum(min(b["time"] - a["time"], 600) for a, b in zip(lines, lines[1:], strict=False)) / 60
    shift = table["score_shift"]
    hidden, returns = survival["hidden"], table["returns"]
    return f"""{_TITLE}

`workbench pretrain-tracker --out runs/tracker` (seed {recipe["seed"]}) taught it to take clicks, boxes and masks and to follow objects through
videos. The image model stayed frozen, byte for byte; the tracker and its feature pyramid, which began as a copy of the
detector's, learnt on {recipe["clips"]} clips of {recipe["clip_frames"]} frames drawn by `workbench/domains/clips.py`: objects move, turn, grow, cross, hide
behind a pillar, leave and come back, some beside a look-alike. Steps, by
clips and frames at once: {steps};
about {minutes:.0f} minutes on at most two CPU cores. Objects were shown by one click ({shares["click"]:.0%}), a box drawn a little off ({shares["box"]:.0%}), or their mask
with rough outlines, some with a second click where the answer was wrong.{f"{began}." if began else ""}
In the end the object score was {f"shifted by {shift:+.1f}" if shift else "left as it was learnt"}, which followed best on validation clips.
{f"{chr(10)}{remarks}{chr(10)}" if remarks else ""}
![learning curve of the tracker]({curve})

{follow["objects"]} objects of {follow["clips"]} held-out clips of {follow["frames"]} frames, told in the first frame and followed by memory alone, in per cent.
"Seen" is the mean IoU of the later frames in which the object is visible, "visible or not" how often the tracker is right
about that; "mask stays" is J&F when the first frame's mask is left where it is.

| told by | J&F, first frame | J&F, later frames | seen | visible or not | mask stays |
|---|---|---|---|---|---|
{_follow_rows(follow)}

{hidden["cases"]} objects that were completely hidden for at least eight of 32 frames; found again means a median IoU of at least one
half in the frames after that, followed the same in the eight frames before.

| told by | followed until hidden | found again | found again, of those followed |
|---|---|---|---|
| one click | {hidden["click_followed"]:.0%} | {hidden["click"]:.0%} | {_share(hidden["click_kept"])} |
| its mask | {hidden["mask_followed"]:.0%} | {hidden["mask"]:.0%} | {_share(hidden["mask_kept"])} |
| nobody: the true mask stays | | {hidden["stays"]:.0%} | |

And in the concept pipeline: {returns["clips"]} held-out clips of 32 frames, each asked by a phrase for an object that was away for at least
eight frames ({returns["returns"]} such returns). "Seen" had a masklet at an IoU of one half or more both before and after, "kept" the same one.

| followed by | seen before and after | kept their masklet |
|---|---|---|
| detections linked frame by frame | {returns["linked"]["seen"]} | {returns["linked"]["kept"]} |
| the tracker | {returns["tracker"]["seen"]} | {returns["tracker"]["kept"]} |

Look-alikes that cross, and objects that come back elsewhere or much changed, are what it loses first. Photographs are as
foreign to the tracker as to the detector.
"""


def _stage(stage: dict[str, Any], is_set_back: bool) -> str:
    """A stage in words; its comparison of looks may be set back to how it began."""
    text = f"{stage['steps']} with {stage['windows']} x {stage['frames']}"
    if stage["with_gaps"] == 1:
        text += " at any distance"
    remarks = ["comparison set back"] if is_set_back else []
    rate = stage["memory_rate"]
    if rate < 1:
        rest = f"the rest of memory's layers at {rate:g} of the rate" if rate else "memory's layers frozen"
        remarks = [*(remarks or ["comparison kept"]), rest]
    return f"{text} ({', '.join(remarks)})" if remarks else text


def _share(value: float | None) -> str:
    return "none was" if value is None else f"{value:.0%}"


def _follow_rows(follow: dict[str, Any]) -> str:
    names = {"click": "one click", "mask": "its mask"}
    columns = ("first", "later", "seen", "visibility", "stays")
    return "\n".join(
        f"| {said} | {' | '.join(f'{100 * follow[kind][column]:.1f}' for column in columns)} |"
        for kind, said in names.items()
    )


def _plot(lines: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    trained = [line for line in lines if line["stage"] == "tracker"]
    for name, colour in (("fit", "#0072B2"), ("dice", "#D55E00"), ("iou", "#009E73")):
        left.plot(
            [line["step"] for line in trained], [line[name] for line in trained], label=name, color=colour, lw=0.9
        )
    left.set(title="Training: IoU of the answers, and losses", xlabel="step", ylim=(0, 1))
    checks = [line for line in lines if line["stage"] == "validation"]
    for name, colour in (
        ("mask later", "#D55E00"),
        ("mask stays", "#EEB58F"),
        ("click later", "#0072B2"),
        ("click stays", "#8FBFDD"),
    ):
        right.plot([line["step"] for line in checks], [line[name] for line in checks], "o-", label=name, color=colour)
    right.set(title="6 validation clips: J&F of later frames", xlabel="step", ylim=(0, 1))
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
