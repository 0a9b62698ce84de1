"""The exemplar encoder: example boxes and points, positive and negative, to prompt tokens.

In: normalised boxes and points with labels, and the image features they point at. Out: one token each plus a summary
token that is always there, also when nothing was given. Paper: "exemplar tokens" of Fig. 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3.boxes import cxcywh_to_xyxy, roi_align
from sam3.config import DetectorConfig, TransformerConfig
from sam3.layers import Attention, sine_encode, sine_position_map


@dataclass(frozen=True)
class Exemplars:
    """Exemplars of P prompts, padded to N boxes and M points.

    Attributes:
        boxes_cxcywh: (P, N, 4) normalised.
        box_labels: (P, N) 1 positive, 0 negative. box_is_valid: (P, N) False = padding.
        points_xy: (P, M, 2) normalised. point_labels: (P, M). point_is_valid: (P, M).
    """

    boxes_cxcywh: Tensor
    box_labels: Tensor
    box_is_valid: Tensor
    points_xy: Tensor
    point_labels: Tensor
    point_is_valid: Tensor

    @classmethod
    def none(cls, num_prompts: int, device: torch.device | None = None) -> Exemplars:
        """No exemplar for any of the prompts."""
        labels = torch.zeros(num_prompts, 0, dtype=torch.long, device=device)
        boxes = torch.zeros(num_prompts, 0, 4, device=device)
        return cls(boxes, labels, labels.bool(), boxes[..., :2], labels, labels.bool())


class ExemplarLayer(nn.Module):
    """Pre-norm: exemplars look at each other, then at the picture."""

    def __init__(self, width: int, config: TransformerConfig, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, config.num_heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.image_attention = Attention(width, config.num_heads, dropout)
        self.norm3 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, image: Tensor, positions: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.dropout(self.self_attention(h, h, h, mask=mask))
        x = x + self.dropout(self.image_attention(self.norm2(x), image + positions, image))
        return x + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(self.norm3(x))))))


class ExemplarEncoder(nn.Module):
    """Turns exemplars into prompt tokens.

    A box token is the sum of its label, its coordinates, its sine code and the picture inside it; a point token
    likewise. The tokens form a set: their order carries no meaning.
    """

    def __init__(self, config: DetectorConfig):
        super().__init__()
        width = config.width
        self.roi_size = config.roi_size
        self.label_embed = nn.Embedding(2, width)
        self.summary_embed = nn.Embedding(1, width)
        self.point_coordinates = nn.Linear(2, width)
        self.point_pool = nn.Linear(width, width)
        self.point_position = nn.Linear(width, width)
        self.box_coordinates = nn.Linear(4, width)
        self.box_pool = nn.Conv2d(width, width, config.roi_size)
        self.box_position = nn.Linear(width + 2, width)
        self.image_norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            ExemplarLayer(width, config.exemplar_encoder, config.dropout)
            for _ in range(config.exemplar_encoder.num_layers)
        )
        self.out_norm = nn.LayerNorm(width)

    def forward(self, exemplars: Exemplars, image_map: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt tokens of every prompt.

        Args:
            exemplars: P prompts, padded.
            image_map: (B, C, h, w), the coarsest map of the pyramid.
            image_index: (P,) long, the picture of each prompt.

        Returns:
            tokens (P, M + N + 1, C) and their validity (P, M + N + 1); the last token is the summary.
        """
        height, width = image_map.shape[-2:]
        tokens, is_valid = [], []
        if exemplars.points_xy.shape[1] or exemplars.boxes_cxcywh.shape[1]:
            normed = self.image_norm(image_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            tokens += [self._points(exemplars, normed, image_index), self._boxes(exemplars, normed, image_index)]
            is_valid += [exemplars.point_is_valid, exemplars.box_is_valid]
        tokens.append(self.summary_embed.weight[None].expand(len(image_index), 1, -1))
        is_valid.append(torch.ones(len(image_index), 1, dtype=torch.bool, device=image_map.device))
        x, valid = torch.cat(tokens, dim=1), torch.cat(is_valid, dim=1)
        x = self.norm(self.project(x))
        image = image_map.flatten(2).transpose(1, 2)[image_index]  # (P, hw, C)
        positions = sine_position_map(height, width, image.shape[-1], image.device).to(image.dtype)
        for layer in self.layers:
            x = layer(x, valid[:, None, None], image, positions)
        return self.out_norm(x), valid

    def _points(self, exemplars: Exemplars, image_map: Tensor, image_index: Tensor) -> Tensor:
        xy = exemplars.points_xy
        pooled = torch.cat(
            [
                F.grid_sample(image_map[i : i + 1].float(), p[None, :, None] * 2 - 1, align_corners=False)[
                    0, :, :, 0
                ].T[None]
                for i, p in zip(image_index.tolist(), xy.float(), strict=True)
            ]
        ).to(image_map.dtype)
        half = image_map.shape[1] // 2
        code = torch.cat([sine_encode(xy[..., 0], half), sine_encode(xy[..., 1], half)], dim=-1).to(image_map.dtype)
        return (
            self.label_embed(exemplars.point_labels)
            + self.point_coordinates(xy.to(image_map.dtype))
            + self.point_pool(pooled)
            + self.point_position(code)
        )

    def _boxes(self, exemplars: Exemplars, image_map: Tensor, image_index: Tensor) -> Tensor:
        boxes = exemplars.boxes_cxcywh
        height, width = image_map.shape[-2:]
        scale = boxes.new_tensor([width, height, width, height])
        corners = (cxcywh_to_xyxy(boxes.float()) * scale).flatten(0, 1)
        rois = roi_align(image_map, corners, image_index.repeat_interleave(boxes.shape[1]), self.roi_size)
        pooled = self.box_pool(rois).flatten(1).unflatten(0, boxes.shape[:2])
        half = image_map.shape[1] // 2
        code = torch.cat([sine_encode(boxes[..., 1], half), sine_encode(boxes[..., 0], half)], dim=-1)
        code = torch.cat([code, boxes[..., 3:4], boxes[..., 2:3]], dim=-1).to(image_map.dtype)
        return (
            self.label_embed(exemplars.box_labels)
            + self.box_coordinates(boxes.to(image_map.dtype))
            + pooled
            + self.box_position(code)
        )
