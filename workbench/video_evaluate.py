"""Measures how a model follows objects through clips: the masklets it finds, the metrics of these, and the time.

A `VideoEvaluation` holds what was found beside what is true, so that two models can be compared and videos painted
later without a model. It is written to and read from one JSON file.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sam3.rle import Rle
from sam3.video.results import FrameResult, Masklet, masklets_of
from sam3.video.source import Video
from workbench.evaluate import write_json
from workbench.video_association import hota_values
from workbench.video_clips import VideoClip
from workbench.video_files import VideoLabels, predictions_to_json, videos_to_json
from workbench.video_metrics import VideoPairStatistics, saco_video_metrics, saco_video_statistics
from workbench.video_statistics import VideoStatistics

_FORMAT = "workbench-video-evaluation-1"

Follow = Callable[[Video, Sequence[str], float | None], Iterator[FrameResult]]


class Session(Protocol):
    """What is needed of a session; `sam3.video.session.VideoSession` has it."""

    def add(self, what: str) -> Any:
        """Looks for a phrase from frame 0 on."""

    def propagate(self) -> Iterator[FrameResult]:
        """The results of all frames."""


class Opener(Protocol):
    """What is needed of a predictor; `sam3.VideoPredictor` has it."""

    def open(self, video: Video, *, frame_rate: float | None = None) -> AbstractContextManager[Session]:
        """Starts a session with a video."""


def follower(predictor: Opener) -> Follow:
    """The way of `predictor` to follow phrases through a video: one session, forward."""

    def follow(video: Video, phrases: Sequence[str], frame_rate: float | None) -> Iterator[FrameResult]:
        with predictor.open(video, frame_rate=frame_rate) as session:
            for phrase in phrases:
                session.add(phrase)
            yield from session.propagate()

    return follow


# ------------------------------------------------------------------------------------------------------------- records
@dataclass(frozen=True, eq=False)
class ClipRecord:
    """One clip.

    Args:
        found: what the model found.
        truth: what is there; None where nobody labelled it.
        seconds: for all phrases and frames, reading included.
    """

    found: VideoLabels
    truth: VideoLabels | None
    seconds: float


@dataclass(frozen=True)
class VideoPair:
    """One (video, phrase) pair: whole masklets at IoU 0.5, and HOTA.

    Args:
        video, phrase: what was asked where.
        num_truth: labelled masklets.
        num_found, num_false, num_missed: masklets that hit one, masklets that hit none, labelled ones that none hits.
        f1: mean over ten IoU thresholds; 1 where nothing is there and nothing is found.
        hota: NaN where nothing is there and nothing is found.
        id_switches: times that an object goes over from one masklet to another.
    """

    video: str
    phrase: str
    num_truth: int
    num_found: int
    num_false: int
    num_missed: int
    f1: float
    hota: float
    id_switches: int


@dataclass(frozen=True, eq=False)
class VideoEvaluation:
    """What one model found in some clips; made by `evaluate_videos`.

    Args:
        model: name for reports.
        adapter: name of the adapter that was on; empty for none.
        data: name of the clips.
        clips: in their order.
        metrics: of `saco_video_metrics`, over all clips; empty without labels.
        pairs: of every clip and phrase; empty without labels.
    """

    model: str
    adapter: str
    data: str
    clips: tuple[ClipRecord, ...]
    metrics: dict[str, float]
    pairs: tuple[VideoPair, ...]

    @property
    def has_labels(self) -> bool:
        return all(clip.truth is not None for clip in self.clips)

    @property
    def seconds(self) -> float:
        return sum(clip.seconds for clip in self.clips)

    @property
    def num_frames(self) -> int:
        return sum(clip.found.num_frames for clip in self.clips)

    @property
    def seconds_per_frame(self) -> float:
        return self.seconds / self.num_frames

    def statistics(self) -> VideoStatistics:
        """What a comparison needs.

        Raises:
            ValueError: the clips have no labels.
        """
        pairs = saco_video_statistics(*_contents(self.clips))
        return VideoStatistics(
            pairs=pairs,
            clip_of_pair=np.array([pair.video_id - 1 for pair in pairs]),
            seconds=np.array([clip.seconds for clip in self.clips]),
            num_frames=np.array([clip.found.num_frames for clip in self.clips], dtype=np.float64),
        )

    def save(self, path: str | Path) -> None:
        """Writes one JSON file, whole or not at all; NaN becomes null."""
        content = {name: getattr(self, name) for name in ("model", "adapter", "data", "metrics")}
        clips = [
            {
                "found": _labels_to_json(clip.found),
                "truth": None if clip.truth is None else _labels_to_json(clip.truth),
                "seconds": clip.seconds,
            }
            for clip in self.clips
        ]
        pairs = [asdict(pair) for pair in self.pairs]
        write_json(path, {"format": _FORMAT, **content, "clips": clips, "pairs": pairs})

    @classmethod
    def load(cls, path: str | Path) -> VideoEvaluation:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no evaluation of videos, or its content is damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no evaluation at {path}, expected a file written by VideoEvaluation.save()")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}); measure again") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{path} has the format {found!r}, expected {_FORMAT!r}; pass an evaluation of videos")
        try:
            return cls(
                model=str(content["model"]),
                adapter=str(content["adapter"]),
                data=str(content["data"]),
                clips=tuple(_clip_from_json(clip) for clip in content["clips"]),
                metrics={name: math.nan if v is None else float(v) for name, v in content["metrics"].items()},
                pairs=tuple(_pair_from_json(pair) for pair in content["pairs"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); measure again") from error


# ----------------------------------------------------------------------------------------------------------- measuring
def evaluate_videos(
    follow: Follow,
    clips: Sequence[VideoClip],
    *,
    model_name: str,
    data_name: str,
    adapter_name: str = "",
    progress: bool = True,
) -> VideoEvaluation:
    """Follows every phrase through every clip and measures what comes out.

    Args:
        follow: finds the objects of some phrases in every frame of a video, such as `follower(VideoPredictor(model))`.
        clips: all labelled or none.
        model_name, adapter_name, data_name: for reports.
        progress: show a progress bar.

    Returns:
        The masklets, and where the clips are labelled their metrics.

    Raises:
        ValueError: no clip, two of the same name, some labelled and some not, or one that cannot be read.

    Example:
        >>> from workbench.video_clips import rendered_clips
        >>> clips = rendered_clips(1, seed=0, num_frames=2, size=64)
        >>> def blind(video, phrases, frame_rate):
        ...     return iter(())
        >>> found = evaluate_videos(blind, clips, model_name="blind", data_name="rendered", progress=False)
        >>> found.metrics["video_mask_all_phrase_HOTA"], {pair.num_found for pair in found.pairs}
        (0.0, {0})
    """
    from tqdm.auto import tqdm

    names = [clip.name for clip in clips]
    num_labelled = sum(clip.truth is not None for clip in clips)
    if not clips or len(set(names)) < len(names) or num_labelled not in (0, len(clips)):
        raise ValueError(
            f"received {len(clips)} clips with {len(set(names))} different names, {num_labelled} of them labelled; "
            "expected at least one, a name for each, and labels for all or none"
        )
    lengths = []
    for clip in clips:
        with clip.open() as source:
            lengths.append((source.num_frames or 0, source.size))
    records = []
    with tqdm(
        total=sum(length for length, _ in lengths), desc=f"follow {model_name}", unit="frame", disable=not progress
    ) as bar:
        for clip, (num_frames, size) in zip(clips, lengths, strict=True):
            results, start = [], time.perf_counter()
            for result in follow(clip.video, clip.phrases, clip.frame_rate):
                results.append(result)
                bar.update()
            seconds = time.perf_counter() - start
            found = VideoLabels(clip.name, num_frames, size, tuple(masklets_of(results)), clip.phrases)
            records.append(ClipRecord(found, clip.truth, seconds))
    if not num_labelled:
        return VideoEvaluation(model_name, adapter_name, data_name, tuple(records), {}, ())
    contents = _contents(records)
    phrases = {category["id"]: category["name"] for category in contents[0]["categories"]}
    pairs = tuple(_pair(pair, names, phrases) for pair in saco_video_statistics(*contents))
    metrics = saco_video_metrics(*contents)
    return VideoEvaluation(model_name, adapter_name, data_name, tuple(records), metrics, pairs)


def _contents(clips: Sequence[ClipRecord]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth and findings in SA-Co's form; the clips are numbered from 1."""
    truths = [clip.truth for clip in clips if clip.truth is not None]
    if len(truths) < len(clips):
        raise ValueError(f"{len(clips) - len(truths)} of {len(clips)} clips have no labels; expected labels for all")
    truth = videos_to_json(truths, "saco_veval")
    return truth, predictions_to_json([clip.found for clip in clips], truth)


def _pair(statistics: VideoPairStatistics, names: Sequence[str], phrases: Mapping[int, str]) -> VideoPair:
    counts = statistics.counts
    found, false, missed = (int(values[0]) for values in (counts.tp, counts.fp, counts.fn))
    doubled = 2 * counts.tp + counts.fp + counts.fn
    f1 = np.divide(2 * counts.tp, doubled, out=np.ones(len(doubled)), where=doubled > 0)
    is_empty = found + false + missed == 0
    return VideoPair(
        video=names[statistics.video_id - 1],
        phrase=phrases[statistics.category_id],
        num_truth=found + missed,
        num_found=found,
        num_false=false,
        num_missed=missed,
        f1=float(f1.mean()),
        hota=math.nan if is_empty else hota_values([statistics.hota])["HOTA"],
        id_switches=int(statistics.hota.switches[0]),
    )


# ---------------------------------------------------------------------------------------------------------------- JSON
def _labels_to_json(labels: VideoLabels) -> dict[str, Any]:
    return {
        "name": labels.name,
        "num_frames": labels.num_frames,
        "image_size": list(labels.image_size),
        "phrases": list(labels.phrases),
        "file_names": list(labels.file_names),
        "masklets": [
            {
                "id": masklet.id,
                "phrase": masklet.phrase,
                "frames": masklet.frames.tolist(),
                "counts": [rle.to_json()["counts"] for rle in masklet.rles],
                "boxes_xyxy_px": masklet.boxes_xyxy_px.tolist(),
                "scores": masklet.scores.tolist(),
                "detection_score": masklet.detection_score,
                "presence_score": masklet.presence_score,
                "masklet_detection_score": masklet.masklet_detection_score,
            }
            for masklet in labels.masklets
        ],
    }


def _labels_from_json(content: Mapping[str, Any]) -> VideoLabels:
    height, width = content["image_size"]
    size = int(height), int(width)
    masklets = tuple(
        Masklet(
            id=int(entry["id"]),
            phrase=entry["phrase"],
            image_size=size,
            frames=np.array(entry["frames"], dtype=np.int64),
            rles=tuple(Rle.from_json({"size": list(size), "counts": counts}) for counts in entry["counts"]),
            boxes_xyxy_px=np.array(entry["boxes_xyxy_px"], dtype=np.float32).reshape(-1, 4),
            scores=np.array(entry["scores"], dtype=np.float32),
            detection_score=float(entry["detection_score"]),
            presence_score=float(entry["presence_score"]),
            masklet_detection_score=int(entry["masklet_detection_score"]),
        )
        for entry in content["masklets"]
    )
    phrases, file_names = tuple(content["phrases"]), tuple(content["file_names"])
    return VideoLabels(str(content["name"]), int(content["num_frames"]), size, masklets, phrases, file_names)


def _pair_from_json(content: dict[str, Any]) -> VideoPair:
    return VideoPair(**{**content, "hota": math.nan if content["hota"] is None else content["hota"]})


def _clip_from_json(content: Mapping[str, Any]) -> ClipRecord:
    truth = content["truth"]
    return ClipRecord(
        found=_labels_from_json(content["found"]),
        truth=None if truth is None else _labels_from_json(truth),
        seconds=float(content["seconds"]),
    )
