"""What the player shows: a video's objects before and after, frame by frame, checked before a page tries to draw them.

The form is that of the comparisons of videos: `format`, `video` (the plain mp4), `size` [height, width], `frame_rate`,
`num_frames`, `times_s`, `sides` (a title and masklets with id, phrase and colour each) and `frames`, for each frame and
side the objects: id, score, `box_xyxy_px` and `rle`, COCO's compressed run lengths of a mask of `size`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sam3.rle import Rle

FORMAT = "workbench-masklets-1"


def checked_playback(data: Any) -> dict[str, Any]:
    """The data as it came, when the player can show it.

    Raises:
        ValueError: another form, lists that do not match, or a mask that cannot be decoded.

    Example:
        >>> still = {"format": FORMAT, "video": "a.mp4", "size": [8, 8], "frame_rate": 1, "num_frames": 1,
        ...          "times_s": [0.0], "sides": [{"title": "after", "masklets": []}], "frames": [[[]]]}
        >>> checked_playback(still) is still
        True
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ValueError(
            f"received playback data of the form {found!r}; expected {FORMAT!r}. Take the file beside a "
            "video's mp4 (masklets.json in the folder of the run itself holds labels), or write it anew."
        )
    try:
        _check(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"playback data cannot be read ({error!r}); expected the form {FORMAT!r}.") from error
    return data


def load_playback(path: str | Path) -> tuple[dict[str, Any], Path]:
    """The data of a file, and the video it names, which lies beside the file unless its path is absolute.

    Raises:
        ValueError: the file holds something else, or the video is not there.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        data = checked_playback(json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return data, checked_video(path.parent / data["video"])


def checked_video(path: str | Path) -> Path:
    """The path, when there is a file.

    Raises:
        ValueError: there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no video {path}; expected the plain mp4 of the playback data. Check the path.")
    return path.resolve()


def _check(data: dict[str, Any]) -> None:
    height, width = data["size"]
    num_frames, times = data["num_frames"], data["times_s"]
    if len(times) != num_frames or len(data["frames"]) != num_frames:
        raise ValueError(
            f"{num_frames} frames are stated, {len(times)} times and {len(data['frames'])} frames given; expected one "
            "each."
        )
    if not data["frame_rate"] > 0 or any(later <= earlier for earlier, later in zip(times, times[1:], strict=False)):
        raise ValueError("expected a frame rate above zero and rising times in seconds, one per frame.")
    known = [{masklet["id"] for masklet in side["masklets"]} for side in data["sides"]]
    for number, sides in enumerate(data["frames"]):
        if len(sides) != len(known):
            raise ValueError(f"frame {number} has {len(sides)} sides, {len(known)} are named; expected as many.")
        for ids, side in zip(known, sides, strict=True):
            for entry in side:
                if entry["id"] not in ids or len(entry["box_xyxy_px"]) != 4:
                    raise ValueError(f"frame {number}: object {entry['id']!r} is not among the masklets {sorted(ids)}.")
                if entry.get("rle"):
                    Rle.from_json({"size": [height, width], "counts": entry["rle"]})
