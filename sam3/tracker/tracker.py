"""The tracker: one step per frame, from hints or from memory to masks, and from masks to memory.

In: the tracker's feature pyramid, and hints or a recollection of K objects. Out: `TrackerOutput`. K objects are one
batch; nothing at the size of the picture is kept. Paper: "tracker" of Fig. 3, which inherits the design of SAM 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3.config import TrackerConfig
from sam3.layers import MLP, sine_position_map
from sam3.tracker.mask_decoder import MaskCandidates, MaskDecoder
from sam3.tracker.memory import MEMORY_MASK_STRIDE, MemoryAttention, MemoryEncoder
from sam3.tracker.memory_bank import MemoryEntry, Recollection
from sam3.tracker.prompt_encoder import MASK_STRIDE, Hints, PromptEncoder

NO_OBJECT_LOGIT = -1024.0  # mask logits of an object that is not visible
MEMORY_CONTRAST = 10.0  # masks enter the memory encoder between minus and plus this


@dataclass(frozen=True)
class FrameFeatures:
    """What the tracker keeps of B frames: either one that K objects share, or one for each object.

    Attributes:
        fine: (B, C / 8, 4h, 4w). middle: (B, C / 4, 2h, 2w). coarse: (B, C, h, w).
    """

    fine: Tensor
    middle: Tensor
    coarse: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the coarsest map."""
        return self.coarse.shape[-2], self.coarse.shape[-1]

    def __getitem__(self, index: int | slice | Tensor) -> FrameFeatures:
        """The features of some of the frames, as a batch."""
        index = slice(index, index + 1 or None) if isinstance(index, int) else index
        return FrameFeatures(self.fine[index], self.middle[index], self.coarse[index])


@dataclass(frozen=True)
class TrackerOutput:
    """What a frame shows of K objects.

    Attributes:
        mask_logits: (K, 4h, 4w) float32 of the best candidate, -1024 everywhere when the object is not visible.
        iou_scores: (K,) its expected fit, 0..1.
        object_score_logits: (K,) above 0 when the object is visible.
        pointers: (K, C) what the object is, as one vector.
        candidates: the masks the best was chosen from, as predicted, whether visible or not (for training).
        memory: what to store of this frame; None when it was not asked for.
    """

    mask_logits: Tensor
    iou_scores: Tensor
    object_score_logits: Tensor
    pointers: Tensor
    candidates: MaskCandidates
    memory: MemoryEntry | None = None

    def __len__(self) -> int:
        return len(self.pointers)

    @staticmethod
    def joined(parts: Sequence[TrackerOutput]) -> TrackerOutput:
        """What a frame shows of the objects of several batches in order, without memory."""
        return TrackerOutput(
            torch.cat([part.mask_logits for part in parts]),
            torch.cat([part.iou_scores for part in parts]),
            torch.cat([part.object_score_logits for part in parts]),
            torch.cat([part.pointers for part in parts]),
            MaskCandidates.joined([part.candidates for part in parts]),
        )

    def __getitem__(self, objects: Tensor | slice) -> TrackerOutput:
        """What the frame shows of some of the objects."""
        return TrackerOutput(
            self.mask_logits[objects],
            self.iou_scores[objects],
            self.object_score_logits[objects],
            self.pointers[objects],
            self.candidates[objects],
            None if self.memory is None else self.memory[objects],
        )


class Tracker(nn.Module):
    """Segments single objects from hints, and follows them.

    Args:
        config: sizes.
        width: channels of the feature pyramid.
        patch_size: pixels of the model's input along a cell of the coarsest map.

    Example:
        >>> from sam3.config import Sam3Config
        >>> from sam3.tracker.memory_bank import MemoryBank
        >>> tracker = Tracker(Sam3Config.tiny().tracker, 96, 14).eval()
        >>> frames = [tracker.prepare([torch.randn(1, 96, side, side) for side in (32, 16, 8)]) for _ in range(2)]
        >>> clicks = Hints(torch.tensor([[[0.3, 0.4]], [[0.8, 0.1]]]), torch.ones(2, 1, dtype=torch.long))
        >>> bank = MemoryBank()
        >>> bank.store(0, tracker.step(frames[0], hints=clicks).memory)
        >>> tuple(tracker.step(frames[1], memory=bank.recall(1)).mask_logits.shape)
        (2, 32, 32)
    """

    def __init__(self, config: TrackerConfig, width: int, patch_size: int):
        super().__init__()
        if width % config.memory_width:
            raise ValueError(
                f"memory_width {config.memory_width} does not divide the width {width}; change the tracker's config"
            )
        self.config = config
        self.patch_size = patch_size
        self.prompt_encoder = PromptEncoder(width)
        self.mask_decoder = MaskDecoder(width, config.mask_decoder)
        self.memory_encoder = MemoryEncoder(width, config)
        self.memory_attention = MemoryAttention(width, config)
        self.mask_downsample = nn.Conv2d(1, 1, MASK_STRIDE, MASK_STRIDE)
        self.pointer_mlp = MLP(width, width, width, width)
        self.distance_project = nn.Linear(width, config.memory_width)
        self.age_embed = nn.Parameter(torch.empty(config.num_memory_frames, 1, 1, config.memory_width))
        self.no_memory_embed = nn.Parameter(torch.empty(1, 1, width))
        self.unused_no_memory_position = nn.Parameter(torch.empty(1, 1, width))
        self.no_object_pointer = nn.Parameter(torch.empty(1, width))
        self.no_object_embed = nn.Parameter(torch.empty(1, config.memory_width))
        for vector in (
            self.age_embed,
            self.no_memory_embed,
            self.unused_no_memory_position,
            self.no_object_pointer,
            self.no_object_embed,
        ):
            nn.init.trunc_normal_(vector, std=0.02)

    def prepare(self, pyramid: Sequence[Tensor]) -> FrameFeatures:
        """What is needed of the tracker's pyramid (B, C, 4h, 4w), (B, C, 2h, 2w), (B, C, h, w); once per frame."""
        fine, middle, coarse = pyramid
        return FrameFeatures(self.mask_decoder.fine_conv(fine), self.mask_decoder.middle_conv(middle), coarse)

    def prepare_from(self, pyramid: Iterable[nn.Module], trunk: Tensor) -> FrameFeatures:
        """What `prepare` makes of the pyramid over the trunk's maps (B, width, h, w), for a fraction of the work."""
        fine, middle, coarse = list(pyramid)[:3]
        decoder = self.mask_decoder
        return FrameFeatures(fine(trunk, decoder.fine_conv), middle(trunk, decoder.middle_conv), coarse(trunk))

    def step(
        self,
        features: FrameFeatures,
        *,
        memory: Recollection | Sequence[Recollection] | None = None,
        hints: Hints | None = None,
        with_memory: bool = True,
    ) -> TrackerOutput:
        """What one frame shows of K objects.

        Args:
            features: from `prepare`, of one frame or one per object.
            memory: what is remembered of the objects, see `remember`; None where they are shown for the first time.
            hints: of the objects in this frame; None to follow them by memory alone.
            with_memory: also encode what to store of this frame: as a conditioning frame when there are hints.

        Raises:
            ValueError: neither memory nor hints, or of different numbers of objects.
        """
        if memory is None and hints is None:
            raise ValueError("received neither memory nor hints; pass what MemoryBank.recall returns, or Hints")
        if memory is not None and hints is not None:
            parts = [memory] if isinstance(memory, Recollection) else memory
            if (num_remembered := sum(map(len, parts))) != len(hints):
                raise ValueError(
                    f"received memory of {num_remembered} objects and hints of {len(hints)}; both must be of the same "
                    "objects, in the same order"
                )
        image = self.without_memory(features) if memory is None else self.remember(features, memory)
        given = Hints.none(len(image), image.device) if hints is None else hints
        output = self._chosen(self.decode(image, features, given, is_ambiguous=given.labels.shape[1] <= 1))
        if not with_memory:
            return output
        is_hinted = hints is not None
        return replace(output, memory=self.memorise(features, output, is_conditioning=is_hinted, is_binary=is_hinted))

    def adopt(self, features: FrameFeatures, masks: Tensor, *, with_memory: bool = True) -> TrackerOutput:
        """Takes masks for the truth about K objects, and makes out who they are.

        Args:
            features: see `step`.
            masks: (K, H, W) bool, or the covered part of every pixel, 0..1; any size of the model's aspect ratio.
            with_memory: see `step`.

        Returns:
            Output whose mask logits are the masks, between -10 and 10, and whose candidates are those of the decoder.
        """
        size = _scaled(features.grid, MEMORY_MASK_STRIDE)
        masks = _resize(masks[:, None].float(), size)
        rough = self.mask_downsample(masks.to(features.coarse.dtype))
        hints = Hints.none(len(masks), masks.device, rough)
        candidates = self.decode(features.coarse, features, hints, is_ambiguous=False)
        own = self._chosen(candidates)
        is_present = (masks > 0).flatten(1).any(1)
        logits = _resize((2 * masks - 1) * MEMORY_CONTRAST, _scaled(features.grid, MASK_STRIDE)).squeeze(1)
        output = TrackerOutput(
            mask_logits=logits,
            iou_scores=torch.ones_like(own.iou_scores),
            object_score_logits=torch.where(is_present, 10.0, -10.0),
            pointers=torch.where(is_present[:, None], own.pointers, self.no_object_pointer),
            candidates=candidates,
        )
        if not with_memory:
            return output
        return replace(output, memory=self.memorise(features, output, is_conditioning=True, is_binary=True))

    def segment(self, features: FrameFeatures, hints: Hints, *, is_ambiguous: bool) -> MaskCandidates:
        """Masks of K objects in a single picture, without memory of any: three each if `is_ambiguous`, else one."""
        return self.decode(self.without_memory(features), features, hints, is_ambiguous=is_ambiguous)

    def decode(self, image: Tensor, features: FrameFeatures, hints: Hints, *, is_ambiguous: bool) -> MaskCandidates:
        """Masks of K objects in a map (K or 1, C, h, w) that is the frame's coarsest, with or without memory."""
        side = features.grid[0] * self.patch_size
        tokens, rough = self.prompt_encoder(hints, features.grid, side)
        image = (image + rough).expand(len(hints), -1, -1, -1)
        places = self.prompt_encoder.grid_code(features.grid)
        candidates = self.mask_decoder(image, places, tokens, features.middle, features.fine)
        return candidates.ambiguous() if is_ambiguous else candidates.single(with_fallback=not self.training)

    def without_memory(self, features: FrameFeatures) -> Tensor:
        """The frame's coarsest map, marked as seen without memory: (B, C, h, w)."""
        return features.coarse + self.no_memory_embed.view(1, -1, 1, 1)

    def remember(self, features: FrameFeatures, memory: Recollection | Sequence[Recollection]) -> Tensor:
        """The frame's coarsest map as seen with memory: (K, C, h, w).

        Args:
            features: of one frame, or one per object.
            memory: of K objects; or several, of objects that remember different frames, but equally many.
        """
        parts = [memory] if isinstance(memory, Recollection) else list(memory)
        tokens, places, num_pieces = zip(*(self._memory_tokens(features, part) for part in parts), strict=True)
        if len(parts) == 1:
            return self.memory_attention(features.coarse, tokens[0], places[0], num_pieces[0])
        codes = torch.cat([place.expand(len(part), -1, -1) for place, part in zip(places, parts, strict=True)])
        return self.memory_attention(features.coarse, torch.cat(tokens), codes, num_pieces[0])

    def _memory_tokens(self, features: FrameFeatures, memory: Recollection) -> tuple[Tensor, Tensor, int]:
        """Tokens (K, S, M) of what is remembered, their position codes (1, S, M), how many are pieces of pointers."""
        dtype, grid = features.coarse.dtype, features.grid
        grid_code = sine_position_map(*grid, self.config.memory_width, features.coarse.device)
        tokens = [maps.to(dtype).flatten(2).transpose(1, 2) for maps in memory.maps]  # (K, hw, M)
        # Age 0, a conditioning frame, has the last of the codes.
        places = [grid_code.to(dtype) + self.age_embed[age - 1] for age in memory.ages]
        num_pieces = 0
        if memory.pointers:
            pointers = torch.stack(memory.pointers, dim=1).to(dtype)  # (K, P, C)
            pieces = pointers.unflatten(2, (-1, self.config.memory_width)).flatten(1, 2)
            tokens.append(pieces)
            codes = self.distance_code(memory.distances, memory.span)
            places.append(codes.repeat_interleave(pieces.shape[1] // len(codes), dim=0)[None])
            num_pieces = pieces.shape[1]
        return torch.cat(tokens, dim=1), torch.cat(places, dim=1), num_pieces

    def distance_code(self, distances: Sequence[int], span: int) -> Tensor:
        """Position code (P, M) of object pointers by their distances, in parts of `span`."""
        weight = self.distance_project.weight
        half = weight.shape[1] // 2
        index = torch.arange(half, device=weight.device)
        period = 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)
        angles = torch.tensor(distances, dtype=torch.float32, device=weight.device)[:, None] / span / period
        return self.distance_project(torch.cat([angles.sin(), angles.cos()], dim=-1).to(weight.dtype))

    def memorise(
        self,
        features: FrameFeatures,
        output: TrackerOutput,
        *,
        is_conditioning: bool,
        is_binary: bool,
        mask_logits: Tensor | None = None,
        is_present: Tensor | None = None,
    ) -> MemoryEntry:
        """What to store of a frame.

        Args:
            features: of the frame. output: what it shows.
            is_conditioning: somebody said in this frame what the objects are.
            is_binary: store where the masks are rather than how sure they are; usual for hinted masks. In training it
                has no effect, since a threshold has no gradient.
            mask_logits: (K, H, W) in place of the output's, at the size where they are to be thresholded or squashed;
                by default the output's, enlarged to the model's input.
            is_present: (K,) bool in place of a positive object score.
        """
        if mask_logits is None:
            mask_logits = _resize(output.mask_logits[:, None], _scaled(features.grid, self.patch_size)).squeeze(1)
        if is_present is None:
            is_present = output.object_score_logits > 0
        maps = self.encode_memory(features, mask_logits, is_present, is_binary=is_binary)
        return MemoryEntry(maps, output.pointers, output.object_score_logits, output.iou_scores, is_conditioning)

    def encode_memory(
        self, features: FrameFeatures, mask_logits: Tensor, is_present: Tensor, *, is_binary: bool
    ) -> Tensor:
        """Memory maps (K, M, h, w) of mask logits (K, H, W); see `memorise`. In evaluation they are bfloat16."""
        dtype = features.coarse.dtype
        is_hard = is_binary and not self.training
        inside = (mask_logits > 0).float() if is_hard else mask_logits.float().sigmoid()
        masks = (2 * inside - 1)[:, None] * MEMORY_CONTRAST
        masks = _resize(masks, _scaled(features.grid, MEMORY_MASK_STRIDE))
        maps = self.memory_encoder(features.coarse, masks.to(dtype))
        maps = maps + torch.where(is_present[:, None], 0.0, self.no_object_embed)[..., None, None]
        return maps if self.training else maps.bfloat16()

    def _chosen(self, candidates: MaskCandidates) -> TrackerOutput:
        """The best candidate, and the pointer made from its token; none of both where no object is visible."""
        best = candidates.best()
        is_visible = best.object_score_logits > 0
        pointers = self.pointer_mlp(best.tokens.squeeze(1))
        return TrackerOutput(
            mask_logits=torch.where(is_visible[:, None, None], best.mask_logits.squeeze(1), NO_OBJECT_LOGIT),
            iou_scores=best.iou_scores.squeeze(1),
            object_score_logits=best.object_score_logits,
            pointers=torch.where(is_visible[:, None], pointers, self.no_object_pointer),
            candidates=candidates,
        )


def _scaled(grid: tuple[int, int], stride: int) -> tuple[int, int]:
    return grid[0] * stride, grid[1] * stride


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, with antialiasing where maps (K, 1, H, W) become smaller."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", antialias=maps.shape[-2] > size[0], align_corners=False)
