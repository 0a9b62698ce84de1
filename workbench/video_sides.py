"""Two answers about one video side by side: an mp4, a strip of frames, and the data for a page that draws them itself.

Masklets before and after come in. Those that are the same object get the same number, and with it the same colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment

from sam3.video.results import Masklet, frame_result
from sam3.video.source import FrameSource
from workbench import playback
from workbench.paint import fit_image, fit_masks, overlay
from workbench.video_metrics import mask_overlap
from workbench.video_overlay import colour_of, timed_frames, write_mp4

SAME_IOU = 0.3  # masklets of one phrase with at least this overlap are taken for the same object
_LONGEST_SIDE_PX = (320, 960)
_GAP_PX = 8
_INK, _PAPER = (27, 33, 40), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Side:
    """One of the answers: what it is called, and what was found."""

    title: str
    masklets: tuple[Masklet, ...]


def with_same_numbers(before: Side, after: Side, num_frames: int) -> Side:
    """`after` with the numbers of `before` for what is the same object, and the lowest free ones for the rest.

    The lowest, because colours come again after a dozen numbers.
    """
    entries = [[_entry(masklet, num_frames) for masklet in side.masklets] for side in (before, after)]
    iou = mask_overlap(entries[0], entries[1], num_frames).masklet_iou
    phrases = [np.array([masklet.phrase or "" for masklet in side.masklets], dtype=str) for side in (before, after)]
    iou = np.where(phrases[0][:, None] == phrases[1], iou, 0.0)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    same = {
        after.masklets[column].id: before.masklets[row].id
        for row, column in zip(rows, columns, strict=True)
        if iou[row, column] >= SAME_IOU
    }
    taken = {masklet.id for masklet in before.masklets}
    free = (number for number in count() if number not in taken)
    numbers = [same[masklet.id] if masklet.id in same else next(free) for masklet in after.masklets]
    renumbered = (replace(masklet, id=number) for masklet, number in zip(after.masklets, numbers, strict=True))
    return replace(after, masklets=tuple(renumbered))


def draw_sides(frame: np.ndarray, number: int | None, sides: Sequence[Side]) -> np.ndarray:
    """One frame with each answer painted on it, side by side below their titles.

    Args:
        frame: (H,W,3) uint8 RGB.
        number: of the frame; None paints nothing.
        sides: from left to right.

    Returns:
        (h,w,3) uint8; small frames are enlarged, large ones made smaller.
    """
    pictures = [_painted(frame, number, side) for side in sides]
    height, width = pictures[0].shape[:2]
    bar = max(20, round(min(height, width) / 14))
    sheet = Image.new("RGB", (len(sides) * (width + _GAP_PX) - _GAP_PX, height + bar), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=round(bar * 0.66))
    for place, (side, picture) in enumerate(zip(sides, pictures, strict=True)):
        left = place * (width + _GAP_PX)
        draw.text((left + 4, bar // 2), _fitting(side.title, font, width - 8), font=font, fill=_INK, anchor="lm")
        sheet.paste(Image.fromarray(picture), (left, bar))
    return np.asarray(sheet)


def write_sides(video: FrameSource, sides: Sequence[Side], path: str | Path, *, frame_rate: float = 25.0) -> Path:
    """Writes the answers side by side as an mp4.

    Args:
        video: from `open_video`; read once, forward.
        sides: from left to right; their masklets are of this video.
        path: of the mp4.
        frame_rate: frames per second where the source knows none.

    Returns:
        The path.
    """
    rate = video.frame_rate or frame_rate
    frames = timed_frames(video, rate)
    write_mp4(((time, draw_sides(frame, number, sides)) for time, number, frame in frames), path, rate)
    return Path(path)


def draw_strip(video: FrameSource, sides: Sequence[Side], num_frames: int = 5, side_px: int = 220) -> np.ndarray:
    """Some frames of a video as columns, one row for each answer.

    Args:
        video: read forward, to the last frame that is shown.
        sides: from top to bottom.
        num_frames: how many, evenly spread from the first to the last.
        side_px: the longer side of a picture.

    Returns:
        (h,w,3) uint8.
    """
    length = video.num_frames or 1
    chosen = set(np.linspace(0, length - 1, min(num_frames, length)).round().astype(int).tolist())
    columns = []
    for place, (_, number, frame) in enumerate(timed_frames(video, 1.0)):
        if place in chosen:
            rows = [
                np.pad(fit_image(_painted(frame, number, side), side_px), ((0, 4), (0, 4), (0, 0)), constant_values=255)
                for side in sides
            ]
            columns.append(np.concatenate(rows))
    return np.concatenate(columns, axis=1)


def player_data(
    video: FrameSource, sides: Sequence[Side], video_file: str, *, frame_rate: float = 25.0
) -> dict[str, Any]:
    """What a page needs to draw the answers over the plain video itself.

    Args:
        video: from `open_video`; its frames are not read.
        sides: such as before and after.
        video_file: path or address of the plain mp4, from where the page is.
        frame_rate: frames per second where the source knows none.

    Returns:
        `format`, `video`, `size` [height, width], `frame_rate`, `num_frames`, `times_s` of the frames, `phrases`;
        `sides`, each with a title and its masklets (id, phrase, colour, detection score); `frames`, for each frame and
        side its objects: id, score, `box_xyxy_px` and `rle`, COCO's compressed run lengths of a mask of `size`.
    """
    rate = video.frame_rate or frame_rate
    num_frames = video.num_frames or 0
    times = np.arange(num_frames) / rate if video.timestamps_s is None else video.timestamps_s
    masklets = [masklet for side in sides for masklet in side.masklets]
    return {
        "format": playback.FORMAT,
        "video": video_file,
        "size": list(video.size),
        "frame_rate": rate,
        "num_frames": num_frames,
        "times_s": [round(time, 6) for time in times.tolist()],
        "phrases": list(dict.fromkeys(masklet.phrase or "visual" for masklet in masklets)),
        "sides": [
            {"title": side.title, "masklets": [_described(masklet) for masklet in side.masklets]} for side in sides
        ],
        "frames": [[_objects(side, frame) for side in sides] for frame in range(num_frames)],
    }


def _described(masklet: Masklet) -> dict[str, Any]:
    return {
        "id": masklet.id,
        "phrase": masklet.phrase or "visual",
        "colour": list(colour_of(masklet.id)),
        "detection_score": round(masklet.detection_score, 4),
    }


def _objects(side: Side, frame: int) -> list[dict[str, Any]]:
    if not side.masklets:
        return []
    seen = frame_result(side.masklets, frame)
    return [
        {
            "id": id_,
            "score": round(score, 4),
            "box_xyxy_px": [round(value, 2) for value in box],
            "rle": rle.counts,
        }
        for id_, score, box, rle in zip(
            seen.ids.tolist(), seen.scores.tolist(), seen.boxes_xyxy_px.tolist(), seen.rles, strict=True
        )
    ]


def _painted(frame: np.ndarray, number: int | None, side: Side) -> np.ndarray:
    low, high = _LONGEST_SIDE_PX
    picture = fit_image(frame, int(np.clip(max(frame.shape[:2]), low, high)))
    if number is None or not side.masklets:
        return picture
    seen = frame_result(side.masklets, number)
    ids = seen.ids.tolist()
    tags = [f"{phrase or 'object'} {id_}" for phrase, id_ in zip(seen.phrases, ids, strict=True)]
    masks = fit_masks(seen.masks, picture.shape[:2])
    return overlay(picture, masks, labels=tags, colours=[colour_of(id_) for id_ in ids])


def _entry(masklet: Masklet, num_frames: int) -> dict[str, Any]:
    segmentations: list[Any] = [None] * num_frames
    for frame, rle in zip(masklet.frames.tolist(), masklet.rles, strict=True):
        segmentations[frame] = rle.to_json()
    return {"segmentations": segmentations}


def _fitting(text: str, font: Any, width: int) -> str:
    """The text, cut with an ellipsis where it is too long."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
