"""The detector: prompt encoders, fusion encoder, decoder and mask head, called in the order of the paper's Fig. 2.

In: image features, text features and exemplars. Out: `DetectorOutput`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3.config import DetectorConfig, TextEncoderConfig
from sam3.detector.decoder import Decoder, DecoderLayerOutput
from sam3.detector.exemplar_encoder import ExemplarEncoder, Exemplars
from sam3.detector.fusion_encoder import FusionEncoder
from sam3.detector.mask_head import MaskFeatures, MaskHead
from sam3.detector.text_encoder import TextEncoder, TextFeatures
from sam3.image_encoder import ImageFeatures
from sam3.layers import MLP, sine_position_map

T = TypeVar("T")


@dataclass(frozen=True)
class LayerOutput:
    """Predictions of one decoder layer for one group of queries.

    Attributes:
        pred_logits: (P, Q) does this query's object match the prompt, given that the concept is there.
        pred_boxes_cxcywh: (P, Q, 4) in 0..1.
        presence_logits: (P,) is the concept in the picture at all.
        mask_vectors: (P, Q, C), last layer only.
    """

    pred_logits: Tensor
    pred_boxes_cxcywh: Tensor
    presence_logits: Tensor
    mask_vectors: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """(P, Q) final scores in 0..1: match probability times presence probability."""
        return self.pred_logits.float().sigmoid() * self.presence_logits.float().sigmoid()[:, None]


@dataclass(frozen=True)
class DetectorOutput:
    """Predictions for P (image, prompt) pairs.

    Attributes:
        layers: one `LayerOutput` per decoder layer, the last one final; in evaluation only the last.
        image_index: (P,) the picture of each pair.
        mask_features: pixel and semantic maps of the pairs in `mask_pairs`, or None when masks were not asked for.
        mask_pairs: (M,) the pairs that have mask features.
        fused_tokens: (P, hw, C) image tokens after fusion.
        one_to_many: layers of the second half of the queries (training), else empty.
        probes: layers of the probe queries (training), else empty.
    """

    layers: tuple[LayerOutput, ...]
    image_index: Tensor
    mask_features: MaskFeatures | None
    mask_pairs: Tensor
    fused_tokens: Tensor
    one_to_many: tuple[LayerOutput, ...] = ()
    probes: tuple[LayerOutput, ...] = ()

    @property
    def pred_logits(self) -> Tensor:
        return self.layers[-1].pred_logits

    @property
    def pred_boxes_cxcywh(self) -> Tensor:
        return self.layers[-1].pred_boxes_cxcywh

    @property
    def presence_logits(self) -> Tensor:
        return self.layers[-1].presence_logits

    @property
    def scores(self) -> Tensor:
        return self.layers[-1].scores

    @property
    def pred_masks(self) -> Tensor:
        """(M, Q, H, W) mask logits of every query: large; `masks_of` makes only some."""
        vectors = _required(self.layers[-1].mask_vectors)[self.mask_pairs]
        return torch.einsum("mqc,mchw->mqhw", vectors, _required(self.mask_features).pixels)

    @property
    def semantic_logits(self) -> Tensor:
        """(M, 1, H, W) logits of "this pixel belongs to the concept"."""
        return _required(self.mask_features).semantic_logits

    def masks_of(self, pair: Tensor, query: Tensor, layer: LayerOutput | None = None) -> Tensor:
        """(N, H, W) mask logits of chosen (pair, query) couples; `layer` picks another group of queries.

        Raises:
            ValueError: masks were not asked for, or not for one of the pairs.
        """
        row = torch.full((len(self.image_index),), -1, device=pair.device).index_put(
            (self.mask_pairs,), torch.arange(len(self.mask_pairs), device=pair.device)
        )
        vectors = _required((layer or self.layers[-1]).mask_vectors)[pair, query]
        pixels = _required(self.mask_features).pixels
        chosen = row[pair]
        places, masks = [chosen[:0]], [pixels.new_zeros(0, *pixels.shape[-2:])]
        for index in chosen.unique().tolist():
            here = (chosen == index).nonzero().squeeze(1)
            if index < 0:
                raise ValueError(
                    f"masks of pair {int(pair[here[0]])} are wanted, but only {len(self.mask_pairs)} other pairs have "
                    "some; name it in mask_pairs when calling the detector"
                )
            places.append(here)
            masks.append(torch.einsum("nc,chw->nhw", vectors[here], pixels[index]))
        return torch.cat(masks)[torch.cat(places).argsort()]


def _required(value: T | None) -> T:
    if value is None:
        raise ValueError(
            "there are no mask features here; masks come from the last layer, and only when the detector is called "
            "with with_masks=True"
        )
    return value


class Scoring(nn.Module):
    """Match logit of a query: its dot product with the pooled prompt. Paper: appendix C.2."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.prompt_mlp = MLP(width, hidden, width, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.project_prompt = nn.Linear(width, width)
        self.project_query = nn.Linear(width, width)

    def forward(self, queries: Tensor, prompt: Tensor, is_valid: Tensor) -> Tensor:
        """(P, Q) logits of queries (P, Q, C) against prompts (P, S, C) with validity (P, S)."""
        prompt = self.norm(prompt + self.prompt_mlp(prompt))
        weight = is_valid.to(prompt.dtype)[..., None]
        pooled = (prompt * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        vector = self.project_prompt(pooled)
        logits = torch.einsum("pqc,pc->pq", self.project_query(queries), vector) * queries.shape[-1] ** -0.5
        return logits.clamp(-12.0, 12.0)


class Detector(nn.Module):
    """Open-vocabulary detector of one picture.

    Args:
        config: sizes of the detector.
        text: sizes of the text encoder.
    """

    def __init__(self, config: DetectorConfig, text: TextEncoderConfig):
        super().__init__()
        self.config = config
        self.text_encoder = TextEncoder(text, config.width)
        self.exemplar_encoder = ExemplarEncoder(config)
        self.fusion_encoder = FusionEncoder(config)
        self.decoder = Decoder(config)
        self.scoring = Scoring(config.width, config.decoder.mlp_width, config.dropout)
        self.mask_head = MaskHead(config)

    def forward(
        self,
        features: ImageFeatures,
        image_index: Tensor,
        text: TextFeatures,
        exemplars: Exemplars,
        *,
        with_masks: bool = True,
        mask_pairs: Tensor | Callable[[Tensor], Tensor] | None = None,
        one_to_many: bool = False,
        probe_boxes_cxcywh: Tensor | None = None,
        attended: Tensor | None = None,
    ) -> DetectorOutput:
        """Finds every instance of each prompt.

        Args:
            features: of B pictures. image_index: (P,) the picture of each prompt.
            text: features of P phrases. exemplars: of P prompts.
            with_masks: False skips the mask head.
            mask_pairs: only these prompts get mask features, or those that a function chooses by the scores (P, Q);
                default all.
            one_to_many, probe_boxes_cxcywh: see `Decoder.forward`.
            attended: what `attend` gave for these pictures, when several calls ask about them.
        """
        exemplar_tokens, exemplar_valid = self.exemplar_encoder(exemplars, features.pyramid[-1], image_index)
        prompt = torch.cat([text.tokens, exemplar_tokens], dim=1)  # (P, S, C)
        is_valid = torch.cat([text.is_valid, exemplar_valid], dim=1)
        prompt_mask = is_valid[:, None, None]
        grid = features.grid
        tokens, positions = _tokens(features)
        image = self.fusion_encoder(tokens, image_index, positions, prompt, prompt_mask, attended)
        decoded = self.decoder(
            image,
            positions,
            grid,
            prompt,
            prompt_mask,
            one_to_many=one_to_many,
            probe_boxes_cxcywh=probe_boxes_cxcywh,
        )
        kept = decoded if self.training else decoded[-1:]
        outputs = [self._predict(layer, prompt, is_valid, with_masks and layer is decoded[-1]) for layer in kept]
        num_queries = self.config.num_queries
        groups = [num_queries] * (2 if one_to_many else 1)
        num_probes = outputs[0].pred_logits.shape[1] - sum(groups)
        sections = [_split(layer, [*groups, num_probes]) for layer in outputs]
        if callable(mask_pairs):
            pairs = mask_pairs(sections[-1][0].scores)
        else:
            pairs = torch.arange(len(image_index), device=image.device) if mask_pairs is None else mask_pairs
        mask_features = None
        if with_masks:
            mask_features = self.mask_head(
                features.pyramid, image_index[pairs], image[pairs], prompt[pairs], prompt_mask[pairs]
            )
        return DetectorOutput(
            layers=tuple(s[0] for s in sections),
            image_index=image_index,
            mask_features=mask_features,
            mask_pairs=pairs,
            fused_tokens=image,
            one_to_many=tuple(s[1] for s in sections) if one_to_many else (),
            probes=tuple(s[-1] for s in sections) if num_probes else (),
        )

    def attend(self, features: ImageFeatures) -> Tensor:
        """What the fusion encoder makes of pictures before it looks at a prompt: (B, hw, C)."""
        return self.fusion_encoder.attend(*_tokens(features))

    def _predict(self, layer: DecoderLayerOutput, prompt: Tensor, is_valid: Tensor, with_masks: bool) -> LayerOutput:
        return LayerOutput(
            pred_logits=self.scoring(layer.queries, prompt, is_valid),
            pred_boxes_cxcywh=layer.boxes_cxcywh,
            presence_logits=layer.presence_logits,
            mask_vectors=self.mask_head.mask_vectors(layer.queries) if with_masks else None,
        )


def _tokens(features: ImageFeatures) -> tuple[Tensor, Tensor]:
    """Image tokens (B, hw, C) and the code of their positions (1, hw, C)."""
    tokens = features.pyramid[-1].flatten(2).transpose(1, 2)
    return tokens, sine_position_map(*features.grid, tokens.shape[-1], tokens.device).to(tokens.dtype)


def _split(layer: LayerOutput, sizes: list[int]) -> list[LayerOutput]:
    vectors = [None] * len(sizes) if layer.mask_vectors is None else layer.mask_vectors.split(sizes, dim=1)
    return [
        LayerOutput(logits, boxes, layer.presence_logits, vector)
        for logits, boxes, vector in zip(
            layer.pred_logits.split(sizes, dim=1), layer.pred_boxes_cxcywh.split(sizes, dim=1), vectors, strict=True
        )
    ]


def pad_prompts(tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stacks tensors (n_i, ...) into (P, max n, ...) with zeros, and says which rows are real (P, max n)."""
    longest = max((len(t) for t in tensors), default=0)
    padded = torch.stack([F.pad(t, [0, 0] * (t.ndim - 1) + [0, longest - len(t)]) for t in tensors])
    lengths = torch.tensor([len(t) for t in tensors], device=padded.device)
    return padded, torch.arange(longest, device=padded.device) < lengths[:, None]
