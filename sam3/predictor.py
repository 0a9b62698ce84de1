"""Pictures and prompts in, boxes and masks in picture pixels out; videos in, masklets out.

`ImagePredictor` does what stands between a user and the model: reading and resizing pictures, scaling exemplars,
keeping features of a picture for the next question, choosing by score and enlarging masks. Clicks: `interactive`.
`VideoPredictor` opens sessions, which do the same for videos: `video.session`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam3.boxes import cxcywh_to_xyxy
from sam3.detector.detector import DetectorOutput
from sam3.detector.text_encoder import TextFeatures
from sam3.image_encoder import ImageFeatures, to_pixel_values
from sam3.interactive import Segmentation, segment_objects
from sam3.model import Sam3
from sam3.pictures import Picture, read_picture
from sam3.prompts import Click, ObjectPrompt, Prompt, as_prompts
from sam3.tracker.tracker import FrameFeatures
from sam3.video.session import VideoSession
from sam3.video.source import FrameSource, Video, open_video
from sam3.video_config import VideoConfig

if TYPE_CHECKING:
    import supervision

_PAIRS_AT_ONCE = 16
_CELLS_AT_ONCE = 4096  # more do not fit into the caches of a CPU, and take longer together than one by one


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found for one prompt, best first.

    Attributes:
        phrase: what was asked; None for exemplars alone.
        boxes_xyxy_px: (N, 4) float32, inside the picture, right and lower end exclusive.
        masks: (N, H, W) bool.
        scores: (N,) float32 in 0..1, match times presence.
        presence_score: probability that the concept is in the picture at all.
        image_size: (H, W).
    """

    phrase: str | None
    boxes_xyxy_px: NDArray[np.float32]
    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    presence_score: float
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)

    def with_mask(self, index: int, mask: NDArray[np.bool_]) -> Prediction:
        """The same with another mask (H, W) for one of the instances, and the box around it."""
        masks, boxes = self.masks.copy(), self.boxes_xyxy_px.copy()
        masks[index] = mask
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes[index] = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else 0
        return replace(self, masks=masks, boxes_xyxy_px=boxes)

    def to_detections(self) -> supervision.Detections:
        """The same as `supervision.Detections`, with the phrase under `data["class_name"]` and class id 0."""
        import supervision

        return supervision.Detections(
            xyxy=self.boxes_xyxy_px,
            mask=self.masks,
            confidence=self.scores,
            class_id=np.zeros(len(self), dtype=int),
            data={"class_name": np.array([self.phrase or "visual"] * len(self), dtype=object)},
        )


class ImagePredictor:
    """Asks a model about pictures. The picture's features are kept, so each further question costs only the heads.

    Args:
        model: from `load_sam3`; put into evaluation mode.
        score_threshold: candidates must score higher than this, 0..1.
        image_size: side of the model's input; a multiple of the patch size. Default: what the model was trained at.
        pairs_at_once: prompts answered in one pass; bounds the memory. Default: as many as make a pass quick, on a CPU
            one where pictures are large.
        keeps_text: encode each phrase only once, for many pictures; the model's weights must not change meanwhile.

    Example:
        >>> from sam3 import load_sam3
        >>> predictor = ImagePredictor(load_sam3("tiny"))
        >>> predictor.set_image(np.full((60, 80, 3), 255, dtype=np.uint8))
        >>> predictor.predict("red circle").masks.shape[1:]
        (60, 80)
    """

    def __init__(
        self,
        model: Sam3,
        score_threshold: float = 0.5,
        *,
        image_size: int | None = None,
        pairs_at_once: int | None = None,
        keeps_text: bool = False,
    ):
        self.model = model.eval()
        self.keeps_text = keeps_text
        self.score_threshold = _checked(score_threshold)
        self.image_size = image_size or model.config.image_encoder.image_size
        cells = (self.image_size // model.config.image_encoder.patch_size) ** 2
        few = max(1, _CELLS_AT_ONCE // cells) if model.device.type == "cpu" else _PAIRS_AT_ONCE
        self.pairs_at_once = min(few, _PAIRS_AT_ONCE) if pairs_at_once is None else pairs_at_once
        if self.pairs_at_once < 1:
            raise ValueError(f"received pairs_at_once={pairs_at_once}; expected at least 1")
        self._features: ImageFeatures | None = None
        self._texts: tuple[list[str], TextFeatures | None] = ([], None)
        self._trunk: Tensor | None = None
        self._frames: FrameFeatures | None = None  # for clicks, made when the first comes
        self._sizes: list[tuple[int, int]] = []

    def set_image(self, image: Picture) -> None:
        """Encodes one picture; see `read_picture` for what is accepted."""
        self.set_images([image])

    @torch.inference_mode()
    def set_images(self, images: Sequence[Picture]) -> None:
        """Encodes several pictures in one batch; `predict_batch` then answers for each."""
        if not images:
            raise ValueError("received no picture; give at least one")
        pictures = [read_picture(image) for image in images]
        values = torch.stack([to_pixel_values(p, self.image_size) for p in pictures])
        encoder = self.model.image_encoder
        trunk = encoder.trunk(values.to(self.model.device, self.model.dtype))
        self._features, self._frames = encoder.features(trunk), None
        self._trunk = trunk if self.model.tracker is not None else None
        self._sizes = [(p.shape[0], p.shape[1]) for p in pictures]

    @overload
    def predict(self, prompts: Prompt | str, *, score_threshold: float | None = None) -> Prediction: ...
    @overload
    def predict(
        self, prompts: list[Prompt] | list[str] | list[Prompt | str], *, score_threshold: float | None = None
    ) -> list[Prediction]: ...

    def predict(
        self,
        prompts: Prompt | str | list[Prompt] | list[str] | list[Prompt | str],
        *,
        score_threshold: float | None = None,
    ) -> Prediction | list[Prediction]:
        """What the picture shows of one prompt, or of each of several.

        Args:
            prompts: a phrase, a `Prompt` with exemplars in pixels of the picture, or a list of them.
            score_threshold: in place of the predictor's.

        Raises:
            ValueError: no picture was set, or several were (use `predict_batch`), or a prompt is not valid or has an
                exemplar outside the picture.
        """
        if len(self._sizes) > 1:
            raise ValueError(f"{len(self._sizes)} pictures are set; use predict_batch with one list of prompts each")
        answers = self.predict_batch([as_prompts(prompts)], score_threshold=score_threshold)[0]
        return answers[0] if isinstance(prompts, Prompt | str) else answers

    @torch.inference_mode()
    def predict_batch(
        self, prompts: Sequence[Sequence[Prompt | str]], *, score_threshold: float | None = None
    ) -> list[list[Prediction]]:
        """Answers for every picture of `set_images`, one list of prompts per picture."""
        if self._features is None:
            raise ValueError("no picture is set; call set_image first")
        if len(prompts) != len(self._sizes):
            raise ValueError(f"received {len(prompts)} prompt lists for {len(self._sizes)} pictures; expected one each")
        threshold = self.score_threshold if score_threshold is None else _checked(score_threshold)
        asked = [(row, prompt) for row, group in enumerate(prompts) for prompt in as_prompts(group)]
        answers: list[list[Prediction]] = [[] for _ in prompts]
        if not asked:
            return answers
        attended = self.model.detector.attend(self._features)
        phrases = [prompt.text for _, prompt in asked]
        text = self._text(phrases) if self.keeps_text else self.model.encode_text(phrases)
        for start in range(0, len(asked), self.pairs_at_once):
            part = asked[start : start + self.pairs_at_once]
            rows = sorted({row for row, _ in part})
            chosen = torch.tensor(rows, device=self.model.device)
            scaled = [[p.on_input(self._sizes[row], self.image_size) for r, p in part if r == row] for row in rows]
            output = self.model.detect(
                self._features[chosen],
                scaled,
                attended=attended[chosen],
                text=text[torch.arange(start, start + len(part), device=self.model.device)],
                mask_pairs=lambda scores: (scores > threshold).any(1).nonzero().squeeze(1),
            )
            for pair, (row, prompt) in enumerate(part):
                answers[row].append(self._prediction(output, pair, prompt, self._sizes[row], threshold))
        return answers

    def _text(self, phrases: list[str]) -> TextFeatures:
        """Features of the phrases in order; only new ones are encoded, with those that are known."""
        known, features = self._texts
        if features is None or not set(phrases) <= set(known):
            known = list(dict.fromkeys((*known, *phrases)))
            features = self.model.encode_text(known)
            self._texts = known, features
        return features[torch.tensor([known.index(phrase) for phrase in phrases], device=self.model.device)]

    @overload
    def segment(self, objects: ObjectPrompt, *, is_ambiguous: bool | None = None) -> Segmentation: ...
    @overload
    def segment(self, objects: list[ObjectPrompt], *, is_ambiguous: bool | None = None) -> list[Segmentation]: ...

    @torch.inference_mode()
    def segment(
        self, objects: ObjectPrompt | list[ObjectPrompt], *, is_ambiguous: bool | None = None
    ) -> Segmentation | list[Segmentation]:
        """Cuts single objects out of the picture, by clicks, a box or a mask of each.

        To improve an answer, ask again with its mask logits and one more click.

        Args:
            objects: what is known of one object, or of each of several.
            is_ambiguous: give three masks of each, such as part and whole; by default for a single click.

        Raises:
            ValueError: no picture was set, or several were; the model has no tracker; a prompt lies outside.

        Example:
            >>> from sam3.config import Sam3Config
            >>> predictor = ImagePredictor(Sam3(Sam3Config.tiny()))
            >>> predictor.set_image(np.full((60, 80, 3), 255, dtype=np.uint8))
            >>> first = predictor.segment(ObjectPrompt([Click(40, 25)]))
            >>> first.masks.shape
            (3, 60, 80)
            >>> clicks = [Click(40, 25), Click(10, 50, is_positive=False)]
            >>> len(predictor.segment(ObjectPrompt(clicks, mask_logits=first.mask_logits[0])))
            1
        """
        tracker = self.model.require_tracker()
        if self._trunk is None:
            raise ValueError("no picture is set; call set_image first")
        if len(self._sizes) > 1:
            raise ValueError(f"{len(self._sizes)} pictures are set; call set_image with the one that is meant")
        if self._frames is None:
            self._frames = self.model.tracker_features(self._trunk)
        prompts = [objects] if isinstance(objects, ObjectPrompt) else list(objects)
        answers = segment_objects(tracker, self._frames, prompts, self._sizes[0], is_ambiguous=is_ambiguous)
        return answers[0] if isinstance(objects, ObjectPrompt) else answers

    def refine(self, prediction: Prediction, index: int, clicks: Sequence[Click]) -> Prediction:
        """Improves one instance of an answer to a phrase by clicks; the others and all scores stay.

        Args:
            prediction: of `predict`, for the picture that is set.
            index: the instance.
            clicks: where its mask is to reach, and where not.

        Raises:
            ValueError: see `segment`; the prediction is of a picture of another size, or has no such instance.
        """
        if not -len(prediction) <= index < len(prediction):
            raise ValueError(f"received index {index}; the prediction has {len(prediction)} instances")
        if self._sizes and prediction.image_size != self._sizes[0]:
            raise ValueError(
                f"the prediction is of a picture of {prediction.image_size} pixels, the one that is set has "
                f"{self._sizes[0]} (H, W); set the picture that the prediction is of"
            )
        answer = self.segment(ObjectPrompt(clicks, mask=prediction.masks[index]), is_ambiguous=False)
        return prediction.with_mask(index, answer.masks[0])

    def _prediction(
        self, output: DetectorOutput, pair: int, prompt: Prompt, size: tuple[int, int], threshold: float
    ) -> Prediction:
        scores = output.scores[pair]
        kept = (scores > threshold).nonzero().squeeze(1)
        kept = kept[scores[kept].argsort(descending=True, stable=True)]
        height, width = size
        limit = scores.new_tensor([width, height, width, height])
        boxes = cxcywh_to_xyxy(output.pred_boxes_cxcywh[pair, kept].float()) * limit
        masks = np.zeros((len(kept), height, width), dtype=bool)
        if len(kept):
            logits = output.masks_of(torch.full_like(kept, pair), kept).float()
            for row, logit in enumerate(logits):  # one at a time: enlarged logits are large
                full = F.interpolate(logit[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
                masks[row] = (full > 0).cpu().numpy()
        return Prediction(
            phrase=prompt.phrase,
            boxes_xyxy_px=boxes.clamp(min=0).minimum(limit).cpu().numpy(),
            masks=masks,
            scores=scores[kept].cpu().numpy(),
            presence_score=float(output.presence_logits[pair].float().sigmoid()),
            image_size=size,
        )


class VideoPredictor:
    """Opens videos for a model: phrases find every instance in every frame, clicks follow single objects.

    Args:
        model: from `load_sam3`, with a tracker; put into evaluation mode.
        config: the rules for masklets; by default those that the model comes with, `model.config.video`.
            `replace(model.config.video, hotstart_frames=0)` holds no result back, for a camera.
        image_size: side of the model's input; a multiple of the patch size. Default: what the model was trained at.
        tracker_context: entered while the features for the tracker are computed, such as one that switches an adapter
            of the image encoder off, so that the tracker sees what it was trained on. Costs a second pass per frame.
        objects_at_once: objects tracked in one pass; bounds the memory.

    Raises:
        ValueError: the model has no tracker.

    Example:
        >>> from sam3.config import Sam3Config
        >>> predictor = VideoPredictor(Sam3(Sam3Config.tiny()))
        >>> with predictor.open(np.full((3, 60, 80, 3), 255, dtype=np.uint8)) as session:
        ...     clicked = session.add(Click(40, 25))
        ...     [result.frame for result in session.propagate()]
        [0, 1, 2]
    """

    def __init__(
        self,
        model: Sam3,
        config: VideoConfig | None = None,
        *,
        image_size: int | None = None,
        tracker_context: Callable[[], AbstractContextManager[object]] | None = None,
        objects_at_once: int = 16,
    ):
        model.require_tracker()
        self.model = model.eval()
        self.config = config or model.config.video
        self.image_size = image_size or model.config.image_encoder.image_size
        self.tracker_context = tracker_context
        self.objects_at_once = objects_at_once

    def open(self, video: Video | FrameSource, *, frame_rate: float | None = None) -> VideoSession:
        """A session with a video.

        Args:
            video: a folder of frames, a video file, an array (F,H,W,3) uint8 RGB, a list of pictures, any iterator of
                pictures such as a camera, or what `open_video` returns.
            frame_rate: of anything but a video file and what `open_video` returns.

        Raises:
            VideoError: it cannot be read, or is empty.
            ValueError: a rate for what has its own.
        """
        if isinstance(video, FrameSource) and frame_rate is not None:
            raise ValueError(f"received frame_rate={frame_rate} for an opened video; give the rate to open_video")
        source = video if isinstance(video, FrameSource) else open_video(video, frame_rate=frame_rate)
        return VideoSession(
            self.model,
            source,
            self.config,
            image_size=self.image_size,
            tracker_context=self.tracker_context,
            objects_at_once=self.objects_at_once,
        )


def _checked(score_threshold: float) -> float:
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"received score_threshold={score_threshold}; expected a number from 0 to 1")
    return score_threshold
