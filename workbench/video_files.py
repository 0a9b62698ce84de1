"""Labelled videos as files: SA-Co VEval JSON, YouTube-VIS JSON and indexed PNG masks, in and out.

`VideoLabels` say which phrases were looked for in a video and which objects there are; what was found by a model has
the same form. Masks come back pixel for pixel, except where objects overlap in indexed PNGs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from sam3.files import write_folder_atomically, write_text
from sam3.rle import Rle
from sam3.video.results import Masklet, masklet_of_rles
from sam3.video.source import natural_key
from workbench.paint import PALETTE

Entry = Mapping[str, Any]
_VISUAL = "visual"  # the phrase of objects that were found by exemplars alone
_OBJECTS = "objects.json"


@dataclass(frozen=True, eq=False)
class VideoLabels:
    """The objects of one video, labelled or found.

    Attributes:
        name: of the video.
        num_frames: F.
        image_size: (H, W) in pixels.
        masklets: the objects.
        phrases: what was looked for; phrases without a masklet are absent. Those of the masklets are added.
        file_names: F names of its frames, or none.

    Raises:
        ValueError: the masklets do not fit the video, or two have the same id.
    """

    name: str
    num_frames: int
    image_size: tuple[int, int]
    masklets: tuple[Masklet, ...]
    phrases: tuple[str, ...] = ()
    file_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for masklet in self.masklets:
            if tuple(masklet.image_size) != tuple(self.image_size) or masklet.frames[-1] >= self.num_frames:
                raise ValueError(
                    f"video {self.name}: masklet {masklet.id} is {masklet.image_size} and ends at frame "
                    f"{masklet.frames[-1]}; expected {self.image_size} (height, width) and {self.num_frames} frames"
                )
        if len({masklet.id for masklet in self.masklets}) < len(self.masklets):
            raise ValueError(f"video {self.name}: two masklets have the same id; expected one per object")
        if self.file_names and len(self.file_names) != self.num_frames:
            raise ValueError(f"video {self.name}: {len(self.file_names)} file names for {self.num_frames} frames")
        asked = dict.fromkeys((*self.phrases, *(masklet.phrase or _VISUAL for masklet in self.masklets)))
        object.__setattr__(self, "phrases", tuple(asked))


# ---------------------------------------------------------------- JSON


def videos_to_json(videos: Sequence[VideoLabels], form: Literal["saco_veval", "youtube_vis"]) -> dict[str, Any]:
    """Labelled videos as one JSON document.

    Args:
        videos: labelled; ids run anew from 1 over all of them.
        form: "saco_veval" also lists every (video, phrase) pair with its number of objects, 0 where it is absent;
            "youtube_vis" knows no absent phrases.

    Returns:
        The content of the file; masks and boxes are null where an object is not seen, boxes are x, y, width, height.
    """
    phrases = dict.fromkeys(phrase for video in videos for phrase in video.phrases)
    category = {phrase: number for number, phrase in enumerate(phrases, start=1)}
    content: dict[str, Any] = {
        "info": {"description": f"{len(videos)} videos"},
        "videos": [],
        "annotations": [],
        "categories": [{"id": number, "name": phrase} for phrase, number in category.items()],
    }
    pairs: list[dict[str, Any]] = []
    for video_id, video in enumerate(videos, start=1):
        height, width = video.image_size
        names = video.file_names or tuple(f"{video.name}/{frame:05d}.jpg" for frame in range(video.num_frames))
        size = {"height": height, "width": width}
        content["videos"].append(
            {"id": video_id, "video_name": video.name, "file_names": list(names), **size, "length": video.num_frames}
        )
        for masklet in video.masklets:
            phrase = masklet.phrase or _VISUAL
            annotation = {
                "id": len(content["annotations"]) + 1,
                "video_id": video_id,
                "category_id": category[phrase],
                **_tracks(masklet, video.num_frames, absent_box=None),
                "iscrowd": 0,
                **size,
                "noun_phrase": phrase,
            }
            content["annotations"].append(annotation)
        for phrase in video.phrases:
            count = sum((masklet.phrase or _VISUAL) == phrase for masklet in video.masklets)
            pair = {"id": len(pairs) + 1, "video_id": video_id, "category_id": category[phrase]}
            pairs.append({**pair, "noun_phrase": phrase, "num_masklets": count})
    if form == "saco_veval":
        content["video_np_pairs"] = pairs
    return content


def predictions_to_json(videos: Sequence[VideoLabels], truth: Entry) -> list[dict[str, Any]]:
    """What a model found, in SA-Co's form of video predictions.

    Args:
        videos: what was found, one per video; matched with the truth by name.
        truth: content of the labelled file, whose numbers of videos and phrases are used.

    Returns:
        One entry per masklet; its score is the detection score, its box is zeros where it is not seen.

    Raises:
        ValueError: a video or a phrase the truth does not know, or another number of frames.
    """
    lengths = {video["video_name"]: (video["id"], video["length"]) for video in truth["videos"]}
    categories = {category["name"]: category["id"] for category in truth["categories"]}
    found = []
    for video in videos:
        video_id, length = lengths.get(video.name, (None, None))
        unknown = [masklet.phrase for masklet in video.masklets if (masklet.phrase or _VISUAL) not in categories]
        if length != video.num_frames or unknown:
            raise ValueError(
                f"video {video.name} with {video.num_frames} frames and phrases unknown to the truth {unknown}; "
                f"expected one of its videos with {length} frames, asked for its phrases"
            )
        found += [
            {
                "video_id": video_id,
                "category_id": categories[masklet.phrase or _VISUAL],
                "score": masklet.detection_score,
                **_tracks(masklet, video.num_frames, absent_box=[0.0, 0.0, 0.0, 0.0]),
            }
            for masklet in video.masklets
        ]
    return found


def write_videos(
    videos: Sequence[VideoLabels], path: str | Path, form: Literal["saco_veval", "youtube_vis"] = "saco_veval"
) -> Path:
    """Writes `videos_to_json`; `read_videos` reads it back. Returns the path."""
    write_text(path, json.dumps(videos_to_json(videos, form)))
    return Path(path)


def read_videos(path: str | Path) -> list[VideoLabels]:
    """Reads a SA-Co VEval or YouTube-VIS file.

    Returns:
        One per video. The ids of the masklets are those of the annotations. Of a file without `video_np_pairs`, only
        the phrases of a video's own objects count as asked there. Crowds and objects never seen are left out.

    Raises:
        ValueError: anything that does not fit together; names the file and the entry.
    """
    content = _load(Path(path))
    names = {category["id"]: category["name"] for category in content["categories"]}
    masklets: dict[Any, list[Masklet]] = {video["id"]: [] for video in content["videos"]}
    videos = {video["id"]: video for video in content["videos"]}
    for number, entry in enumerate(content["annotations"]):
        where = f"{path}: annotations[{number}]"
        if entry.get("video_id") not in videos or entry.get("category_id") not in names:
            raise ValueError(
                f"{where}: video_id {entry.get('video_id')!r} and category_id {entry.get('category_id')!r}; expected "
                "numbers from the file's own lists"
            )
        if not entry.get("iscrowd", 0):
            phrase = entry.get("noun_phrase") or names[entry["category_id"]]
            masklets[entry["video_id"]] += _masklet(where, entry, videos[entry["video_id"]], phrase, 1.0)
    asked: dict[Any, list[str]] = {video: [] for video in videos}
    for pair in content.get("video_np_pairs") or ():
        asked[pair["video_id"]].append(pair["noun_phrase"])
    return [_labels(video, masklets[key], asked[key]) for key, video in videos.items()]


def read_predictions(path: str | Path, truth_path: str | Path) -> list[VideoLabels]:
    """Reads what a model found, as `predictions_to_json` gives it; sizes, names and phrases come from the truth.

    Returns:
        One per video of the truth, with ids from 1 in file order; the score stands for every frame of a masklet.

    Raises:
        ValueError: as `read_videos`.
    """
    truth = _load(Path(truth_path))
    names = {category["id"]: category["name"] for category in truth["categories"]}
    videos = {video["id"]: video for video in truth["videos"]}
    masklets: dict[Any, list[Masklet]] = {video: [] for video in videos}
    asked: dict[Any, list[str]] = {video: [] for video in videos}
    for pair in truth.get("video_np_pairs") or ():
        asked[pair["video_id"]].append(pair["noun_phrase"])
    entries = _json(Path(path))
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds a {type(entries).__name__}; expected a list of predictions")
    for number, entry in enumerate(entries):
        where = f"{path}: [{number}]"
        if entry.get("video_id") not in videos or entry.get("category_id") not in names:
            raise ValueError(
                f"{where}: video_id and category_id are not in {truth_path}; check that the two belong together"
            )
        numbered = {**entry, "id": number + 1}
        phrase, score = names[entry["category_id"]], float(entry["score"])
        masklets[entry["video_id"]] += _masklet(where, numbered, videos[entry["video_id"]], phrase, score)
    return [_labels(video, masklets[key], asked[key]) for key, video in videos.items()]


def _tracks(masklet: Masklet, num_frames: int, *, absent_box: list[float] | None) -> dict[str, list[Any]]:
    """Masks, boxes and areas of every frame of the video."""
    tracks: dict[str, list[Any]] = {
        "segmentations": [None] * num_frames,
        "bboxes": [absent_box] * num_frames,
        "areas": [None] * num_frames,
    }
    for frame, rle in zip(masklet.frames.tolist(), masklet.rles, strict=True):
        x0, y0, x1, y1 = rle.box_xyxy_px
        tracks["segmentations"][frame] = rle.to_json()
        tracks["bboxes"][frame] = [float(value) for value in (x0, y0, x1 - x0, y1 - y0)]
        tracks["areas"][frame] = rle.area
    return tracks


def _masklet(where: str, entry: Entry, video: Entry, phrase: str, score: float) -> Iterator[Masklet]:
    """The masklet of an entry; none when it is seen in no frame."""
    masks, size = entry.get("segmentations"), (video["height"], video["width"])
    if not isinstance(masks, list) or len(masks) != video["length"]:
        raise ValueError(f"{where}: expected segmentations, one per frame of a video of {video['length']} frames")
    try:
        rles = [None if mask is None else Rle.from_json(mask) for mask in masks]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    wrong = {rle.size for rle in rles if rle is not None} - {size}
    if wrong:
        raise ValueError(
            f"{where}: masks of {sorted(wrong)} in a video of {size} (height, width); expected the same size"
        )
    if any(rle is not None and rle.area for rle in rles):
        yield masklet_of_rles(int(entry["id"]), phrase, rles, score=score)


def _labels(video: Entry, masklets: Sequence[Masklet], asked: Sequence[str]) -> VideoLabels:
    names = tuple(video["file_names"])
    name = str(video.get("video_name") or Path(names[0]).parent.name or video["id"])
    size = int(video["height"]), int(video["width"])
    return VideoLabels(name, int(video["length"]), size, tuple(masklets), tuple(asked), names)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); expected a file of labelled videos") from error


def _load(path: Path) -> dict[str, Any]:
    content = _json(path)
    for name, keys in (
        ("videos", {"id", "file_names", "height", "width", "length"}),
        ("categories", {"id", "name"}),
        ("annotations", {"id", "video_id", "category_id"}),
    ):
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path} has no list of {name}; expected SA-Co VEval or YouTube-VIS JSON")
        for number, entry in enumerate(entries):
            if not keys <= set(entry):
                raise ValueError(f"{path}: {name}[{number}] lacks {sorted(keys - set(entry))}; expected {sorted(keys)}")
    return content


# ---------------------------------------------------------------- indexed PNGs


def write_mask_pngs(labels: VideoLabels, folder: str | Path) -> Path:
    """Writes one indexed PNG per frame, as DAVIS has them, and `objects.json` with the ids and phrases.

    A pixel holds 0 or the number of its object, counted from 1 in the order of the masklets; where objects overlap, the
    one with the higher score in that frame has it.

    Returns:
        The folder. What an earlier call wrote there is replaced.

    Raises:
        ValueError: more than 255 objects, which an indexed PNG cannot hold; or the folder holds other files.
    """
    strange = [file.name for file in Path(folder).glob("*") if file.suffix != ".png" and file.name != _OBJECTS]
    if strange:
        raise ValueError(f"{folder} holds other files, such as {strange[0]}; expected a new folder for the masks")
    if len(labels.masklets) > 255:
        raise ValueError(f"video {labels.name} has {len(labels.masklets)} objects; an indexed PNG holds 255. Use JSON.")
    colours = [(0, 0, 0), *(PALETTE[masklet.id % len(PALETTE)] for masklet in labels.masklets)]
    palette = np.array(colours, dtype=np.uint8).tobytes()
    objects = {
        str(number): {"id": masklet.id, "phrase": masklet.phrase}
        for number, masklet in enumerate(labels.masklets, start=1)
    }

    def write(target: Path) -> None:
        for frame in range(labels.num_frames):
            seen = []
            for number, masklet in enumerate(labels.masklets, start=1):
                rle = masklet.rle(frame)
                if rle is not None:
                    seen.append((masklet.scores[np.searchsorted(masklet.frames, frame)], -number, rle))
            indices = np.zeros(labels.image_size, dtype=np.uint8)
            for _, number, rle in sorted(seen, key=lambda item: item[:2]):
                indices[rle.mask()] = -number
            image = Image.fromarray(indices, mode="P")
            image.putpalette(palette)
            image.save(target / f"{frame:05d}.png")
        (target / _OBJECTS).write_text(json.dumps({"name": labels.name, "objects": objects}), encoding="utf-8")

    write_folder_atomically(folder, write)
    return Path(folder)


def read_mask_pngs(folder: str | Path, *, phrases: Mapping[int, str] | None = None) -> VideoLabels:
    """Reads indexed PNGs, one per frame in the order of their names; the k-th belongs to frame k.

    Args:
        folder: with PNGs whose pixels hold the number of their object, 0 for none.
        phrases: number of an object -> its phrase, in place of `objects.json` beside the PNGs; objects that neither
            names have none.

    Raises:
        ValueError: no PNGs, pictures of other kinds or of different sizes.
    """
    source = Path(folder)
    files = sorted(source.glob("*.png"), key=lambda file: natural_key(file.name))
    if not files:
        raise ValueError(f"{source} holds no PNG; expected one indexed PNG per frame")
    notes: dict[str, Any] = {"name": source.name, "objects": {}}
    if (source / _OBJECTS).exists():
        notes = _json(source / _OBJECTS)
    size = _indices(files[0]).shape
    rles: dict[int, list[Rle | None]] = {}
    for frame, file in enumerate(files):
        indices = _indices(file)
        if indices.shape != size:
            raise ValueError(f"{file} is {indices.shape}, the first {size} (height, width); expected one size")
        for number in set(np.unique(indices).tolist()) - {0}:
            rles.setdefault(number, [None] * len(files))[frame] = Rle.of(indices == number)
    masklets = []
    for number, tracks in sorted(rles.items()):
        note = notes["objects"].get(str(number), {"id": number, "phrase": None})
        masklets.append(masklet_of_rles(int(note["id"]), (phrases or {}).get(number, note["phrase"]), tracks))
    return VideoLabels(notes["name"], len(files), (size[0], size[1]), tuple(masklets))


def _indices(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            if picture.mode not in ("P", "L"):
                raise ValueError(
                    f"{file} has pixel type {picture.mode}; expected an indexed PNG, whose pixels are numbers"
                )
            return np.array(picture)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error}); expected an indexed PNG") from error
