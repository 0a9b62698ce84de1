"""What one training step looks at: views of the pictures, the phrases and exemplars asked of them, and the answers.

Everything follows from the seed and the step number. Image features are kept while the image encoder is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sam3.boxes import xyxy_to_cxcywh
from sam3.detector.matcher import Targets
from sam3.image_encoder import ImageFeatures, to_pixel_values
from sam3.model import Sam3
from sam3.prompts import Prompt
from workbench.augment import View, ViewConcept, drawn_box, make_view
from workbench.examples import Example

if TYPE_CHECKING:
    from workbench.finetune import FinetuneConfig

Key = tuple[int, int]  # picture, number of the view


@dataclass(frozen=True)
class Asked:
    """One phrase asked of one view: `view` is its row in the step."""

    view: int
    concept: ViewConcept
    prompt: Prompt


class ViewPool:
    """Views of the pictures by (picture, number), and their image features when the encoder is frozen.

    Features of the released model take 111 MB per view. There are only as many views as `cache_gb` holds, at least two
    per picture; when not even those fit, no features are kept.

    Args:
        learn: the labelled pictures.
        replay: scenes asked again against forgetting; they come after the others and have one view each. They get a
            third of the kept features at most.
        is_frozen: the image encoder does not change.
    """

    def __init__(
        self,
        model: Sam3,
        learn: Sequence[Example],
        config: FinetuneConfig,
        *,
        is_frozen: bool,
        replay: Sequence[Example] = (),
    ):
        self.model, self.config = model, config
        self.size = model.config.image_encoder.image_size
        # Twice the grid of the masks the model predicts: finer truth than prediction, at little cost.
        self.mask_size = model.config.image_encoder.grid_size * 8
        room = int(config.cache_gb * 1e9 / bytes_per_view(model))
        replay = replay[: room // 3] if is_frozen and room >= 3 else replay
        self.examples, self.num_learn = (*learn, *replay), len(learn)
        fitting = (room - len(replay)) // self.num_learn
        self.keeps_features = is_frozen and fitting >= min(2, config.views)
        self.num_views = min(config.views, fitting) if self.keeps_features else config.views
        self._views: dict[Key, View] = {}
        self._features: dict[Key, ImageFeatures] = {}

    def view(self, picture: int, number: int) -> View:
        """View `number` of a picture; number 0 is the picture itself."""
        key = (picture, number)
        if key not in self._views:
            augment = self.config.augment if number else None
            seed = (self.config.seed, picture, number)
            self._views[key] = make_view(self.examples[picture], self.size, self.mask_size, augment, seed)
        return self._views[key]

    def features(self, keys: Sequence[Key]) -> ImageFeatures:
        """Image features of several views as a batch; computed once per view when the encoder is frozen."""
        if not self.keeps_features:
            return self.model.image_encoder(self._pixels(keys))
        for key in keys:
            if key not in self._features:
                with torch.no_grad():
                    self._features[key] = self.model.image_encoder(self._pixels([key]))
        levels = zip(*(self._features[key].pyramid for key in keys), strict=True)
        return ImageFeatures(tuple(torch.cat(level) for level in levels))

    def _pixels(self, keys: Sequence[Key]) -> Tensor:
        values = torch.stack([to_pixel_values(self.view(*key).pixels, self.size) for key in keys])
        return values.to(self.model.device, self.model.dtype)


def mixed_precision(model: Sam3) -> AbstractContextManager[object]:
    """The precision that a model is trained in: bfloat16 where it pays on a GPU, else the weights' own."""
    is_mixed = model.device.type == "cuda" and model.dtype == torch.float32
    return torch.autocast("cuda", torch.bfloat16) if is_mixed else nullcontext()


def bytes_per_view(model: Sam3) -> int:
    """Memory of one picture's features: the pyramid's levels, side by side."""
    sides = [model.config.image_encoder.grid_size * scale for scale in model.config.image_encoder.pyramid_scales[:3]]
    cells = sum(int(side) ** 2 for side in sides)
    return cells * model.config.detector.width * model.dtype.itemsize


def ask(pool: ViewPool, config: FinetuneConfig, rng: np.random.Generator, step: int) -> tuple[list[Key], list[Asked]]:
    """The views of one step and what is asked of them. Pictures come in shuffled rounds, so all are seen equally
    often.

    Raises:
        ValueError: the pictures give nothing to ask.
    """
    taught = [i for i in range(pool.num_learn) if config.absent_share or _has_present(pool.examples[i])]
    if not taught:
        raise ValueError(
            "no picture shows any of the phrases, and absent_share is 0, so nothing can be asked; expected labelled "
            "objects, or absent_share above 0"
        )
    count, size = len(taught), min(config.images, len(taught))
    keys: list[Key] = []
    asked: list[Asked] = []
    for slot in range(size):
        turn = step * size + slot
        order = np.random.default_rng([config.seed, 2, turn // count]).permutation(count)
        key = taught[int(order[turn % count])], int(rng.integers(pool.num_views))
        # A crop may leave nothing to ask; the whole picture does not.
        is_open = any(c.is_present or config.absent_share for c in pool.view(*key).concepts)
        keys.append(key if is_open else (key[0], 0))
    for row, key in enumerate(keys):
        concepts = pool.view(*key).concepts
        asked += [
            Asked(row, c, prompt_of(c, concepts, pool.size, config.exemplar_share, rng))
            for c in _chosen(concepts, config, rng)
        ]
    return keys, asked


def _has_present(example: Example) -> bool:
    return any(concept.status == "positive" for concept in example.concepts)


def _chosen(concepts: Sequence[ViewConcept], config: FinetuneConfig, rng: np.random.Generator) -> list[ViewConcept]:
    """Some phrases of a view. The share of absent ones is kept also where few are present: more absent ones would cost
    time and teach little."""
    present = [c for c in concepts if c.is_present]
    absent = [c for c in concepts if not c.is_present]
    chosen = [present[i] for i in rng.permutation(len(present))[: config.phrases]]
    wanted = max(1.0, len(chosen)) * config.absent_share / max(1 - config.absent_share, 1e-3)
    num_absent = min(len(absent), math.ceil(wanted), config.phrases)
    chosen = chosen[: max(config.phrases - num_absent, 1)]
    return chosen + [absent[i] for i in rng.permutation(len(absent))[:num_absent]]


def prompt_of(
    concept: ViewConcept, others: Sequence[ViewConcept], size: int, exemplar_share: float, rng: np.random.Generator
) -> Prompt:
    """The phrase; for a share of them with exemplars drawn a little off: a positive box or point where the concept is
    present, and half the time a negative one on an object of another concept.

    Args:
        others: all concepts of the view, among which negatives are looked for.
        size: side of the view in pixels.
    """
    if rng.random() >= exemplar_share:
        return Prompt(concept.phrase)
    shown = [(concept, int(rng.integers(len(concept.boxes_xyxy))), 1)] if concept.is_present else []
    strangers = [
        (other, index, 0)
        for other in others
        if other.is_present and other.phrase != concept.phrase
        for index, box in enumerate(other.boxes_xyxy)
        if not _touches(box, concept.boxes_xyxy)
    ]
    if strangers and rng.random() < 0.5:
        shown.append(strangers[int(rng.integers(len(strangers)))])
    boxes, box_labels, points, point_labels = [], [], [], []
    for owner, index, label in shown:
        if owner.has_masks and rng.random() < 0.25:
            points.append(_point_in(owner.masks[index], size, rng))
            point_labels.append(label)
        else:
            boxes.append(drawn_box(owner.boxes_xyxy[index] * size, rng, size))
            box_labels.append(label)
    return Prompt(concept.phrase, boxes, box_labels, points, point_labels)


def _touches(box: np.ndarray, boxes: np.ndarray) -> bool:
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    return bool((high > low).all(1).any())


def _point_in(mask: np.ndarray, size: int, rng: np.random.Generator) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    pixel = int(rng.integers(len(rows)))
    scale = size / len(mask)
    return (columns[pixel] + 0.5) * scale, (rows[pixel] + 0.5) * scale


def targets_of(asked: list[Asked], mask_size: int, device: torch.device) -> Targets:
    """What the pairs of a step should yield."""
    counts = torch.tensor([len(a.concept.boxes_xyxy) for a in asked])
    boxes = np.concatenate([a.concept.boxes_xyxy for a in asked]) if asked else np.zeros((0, 4), np.float32)
    masks = np.concatenate([a.concept.masks for a in asked])
    has_mask = np.repeat([a.concept.has_masks for a in asked], counts.numpy())
    return Targets(
        pair=torch.arange(len(asked)).repeat_interleave(counts).to(device),
        boxes_cxcywh=xyxy_to_cxcywh(torch.from_numpy(boxes.reshape(-1, 4))).to(device),
        num_pairs=len(asked),
        masks=torch.from_numpy(masks.reshape(-1, mask_size, mask_size)).to(device),
        has_mask=torch.from_numpy(has_mask).to(device),
    )
