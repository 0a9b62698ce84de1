"""SAM 3: say what you look for, get a mask of every instance of it.

    from sam3 import ImagePredictor, load_sam3

    predictor = ImagePredictor(load_sam3("tiny"))
    predictor.set_image("picture.png")
    predictor.predict("red circle").masks

Box of the paper's Fig. 2 and where it is written:

    whole model                   model.py, sizes in config.py
    image encoder and its neck    image_encoder.py
    text encoder                  detector/text_encoder.py, detector/tokenizer.py
    exemplar encoder              detector/exemplar_encoder.py
    fusion encoder                detector/fusion_encoder.py
    detector decoder, presence    detector/decoder.py
    mask head                     detector/mask_head.py
    scores, outputs               detector/detector.py
    training loss                 detector/matcher.py, detector/criterion.py
    tracker, one step per frame   tracker/tracker.py
    prompt encoder, mask decoder  tracker/prompt_encoder.py, tracker/mask_decoder.py
    memory and its bank           tracker/memory.py, tracker/memory_bank.py
    pictures in, masks out        prompts.py, predictor.py, interactive.py
    one frame of a video          video/frame_loop.py, video/following.py
    rules for masklets            video/association.py, video/masklets.py, video_config.py
    videos in, masklets out       video/session.py, video/source.py, video/results.py
    weights in and out            checkpoint.py

Letters in shapes: B pictures, T phrases, P (picture, prompt) pairs, Q queries, N and M items of one prompt or picture
(boxes, points, objects, masks), K objects that are tracked, S prompt or memory tokens, L and D tokens or things in
general, C channels (M those of a memory map), H x W pixels, h x w cells of the patch grid.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam3.checkpoint import load_sam3
    from sam3.config import Sam3Config
    from sam3.interactive import Segmentation
    from sam3.predictor import ImagePredictor, Prediction, VideoPredictor
    from sam3.prompts import Click, ObjectPrompt, Prompt
    from sam3.video.results import FrameResult, Masklet
    from sam3.video.source import open_video
    from sam3.video_config import VideoConfig

__all__ = [
    "Click",
    "FrameResult",
    "ImagePredictor",
    "Masklet",
    "ObjectPrompt",
    "Prediction",
    "Prompt",
    "Sam3Config",
    "Segmentation",
    "VideoConfig",
    "VideoPredictor",
    "load_sam3",
    "open_video",
]

# Imported on first use: a command that only prints its help need not wait for torch.
_MODULES = {
    "Click": "sam3.prompts",
    "FrameResult": "sam3.video.results",
    "ImagePredictor": "sam3.predictor",
    "Masklet": "sam3.video.results",
    "ObjectPrompt": "sam3.prompts",
    "Prediction": "sam3.predictor",
    "Prompt": "sam3.prompts",
    "Sam3Config": "sam3.config",
    "Segmentation": "sam3.interactive",
    "VideoConfig": "sam3.video_config",
    "VideoPredictor": "sam3.predictor",
    "load_sam3": "sam3.checkpoint",
    "open_video": "sam3.video.source",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sam3' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
