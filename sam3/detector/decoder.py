"""The decoder: object queries and a presence token look at the prompt and the picture, layer by layer.

In: fused image tokens and prompt tokens. Out, from every layer: a box and a match logit per query, and one presence
logit per prompt. Paper: "detector decoder" box of Fig. 2, presence token of section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3.boxes import cxcywh_to_xyxy, inverse_sigmoid
from sam3.config import DetectorConfig, TransformerConfig
from sam3.layers import MLP, Attention, Recomputable, sine_encode


@dataclass(frozen=True)
class DecoderLayerOutput:
    """What one layer says.

    Attributes:
        queries: (P, Q, C) normalised query vectors.
        boxes_cxcywh: (P, Q, 4) in 0..1.
        presence_logits: (P,) is the concept in the picture at all.
    """

    queries: Tensor
    boxes_cxcywh: Tensor
    presence_logits: Tensor


class DecoderLayer(nn.Module):
    """Post-norm: self-attention, prompt attention, image attention, feed-forward.

    The last `num_free` rows do not take part in self-attention (one-to-many and probe queries).
    """

    def __init__(self, width: int, config: TransformerConfig, dropout: float):
        super().__init__()
        self.self_attention = Attention(width, config.num_heads, dropout)
        self.self_norm = nn.LayerNorm(width)
        self.prompt_attention = Attention(width, config.num_heads, dropout)
        self.prompt_norm = nn.LayerNorm(width)
        self.image_attention = Attention(width, config.num_heads, dropout)
        self.image_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        query_positions: Tensor,
        prompt: Tensor,
        prompt_mask: Tensor,
        image: Tensor,
        image_positions: Tensor,
        box_bias: Tensor,
        num_free: int,
    ) -> Tensor:
        bound = x.shape[1] - num_free
        h, p = x[:, :bound], (x + query_positions)[:, :bound]
        h = h + self.dropout(self.self_attention(p, p, h))
        x = self.self_norm(torch.cat([h, x[:, bound:]], dim=1) if num_free else h)
        attended = self.prompt_attention(x + query_positions, prompt, prompt, mask=prompt_mask)
        x = self.prompt_norm(x + self.dropout(attended))
        attended = self.image_attention(x + query_positions, image + image_positions, image, mask=box_bias)
        x = self.image_norm(x + self.dropout(attended))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))

    def mlp(self, x: Tensor) -> Tensor:
        """Feed-forward in the weights' own precision also under autocast, as the released weights were trained.

        The layers are called as modules, so that an adapter in their place takes effect.
        """
        with torch.autocast(x.device.type, enabled=False):
            h = self.fc1(x.to(self.fc1.weight.dtype))
            return self.fc2(self.dropout(F.relu(h))).to(x.dtype)


class Decoder(Recomputable):
    """Learned queries with learned anchor boxes, refined layer by layer."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        width = config.width
        self.width = width
        self.query_embed = nn.Embedding(config.num_queries, width)
        self.anchors = nn.Embedding(config.num_queries, 4)  # logits of cxcywh
        self.presence_embed = nn.Embedding(1, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.decoder, config.dropout) for _ in range(config.decoder.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.box_head = MLP(width, width, width, 4)
        self.box_position = MLP(2 * width, width, width)
        self.bias_x = MLP(2, width, config.decoder.num_heads)
        self.bias_y = MLP(2, width, config.decoder.num_heads)
        self.presence_norm = nn.LayerNorm(width)
        self.presence_head = MLP(width, width, width, 1)

    def forward(
        self,
        image: Tensor,
        positions: Tensor,
        grid: tuple[int, int],
        prompt: Tensor,
        prompt_mask: Tensor,
        *,
        one_to_many: bool = False,
        probe_boxes_cxcywh: Tensor | None = None,
    ) -> list[DecoderLayerOutput]:
        """Queries after every layer.

        Args:
            image: (P, hw, C) fused tokens. positions: (1, hw, C). grid: (h, w).
            prompt: (P, S, C). prompt_mask: (P, 1, 1, S).
            one_to_many: append a second copy of the queries that does not look at the others (training; paper C.2).
            probe_boxes_cxcywh: (P, E, 4), append a query at each given box (training: "is this what the phrase says?").

        Returns:
            One output per layer, queries ordered as learned | one-to-many | probes.
        """
        num_prompts = image.shape[0]
        # Boxes stay float32 whatever the weights are: in half precision a coordinate has steps of up to 1/256.
        content, anchors = self.query_embed.weight, self.anchors.weight.float().sigmoid()
        num_queries = len(content)
        if one_to_many:
            content, anchors = content.repeat(2, 1), anchors.repeat(2, 1)
        x = content.expand(num_prompts, -1, -1)
        boxes = anchors.expand(num_prompts, -1, -1)
        if probe_boxes_cxcywh is not None:
            probe_content = self.query_embed.weight.mean(0).expand(num_prompts, probe_boxes_cxcywh.shape[1], -1)
            x, boxes = torch.cat([x, probe_content], dim=1), torch.cat([boxes, probe_boxes_cxcywh], dim=1)
        num_free = x.shape[1] - num_queries
        x = torch.cat([self.presence_embed.weight.expand(num_prompts, 1, -1), x], dim=1)
        outputs = []
        reference = boxes
        for layer in self.layers:
            x = self.run(self._look, layer, x, boxes, grid, prompt, prompt_mask, image, positions, num_free)
            queries = self.norm(x[:, 1:])
            delta = self.box_head(queries).float()
            presence = self.presence_head(self.presence_norm(x[:, 0])).squeeze(-1)
            # Look forward twice: a layer works from a detached box, but its loss reaches the layer before through the
            # box that one predicted.
            refined = (delta + inverse_sigmoid(reference)).sigmoid()
            outputs.append(DecoderLayerOutput(queries, refined, presence))
            reference = (delta + inverse_sigmoid(boxes)).sigmoid()
            boxes = reference.detach()
        return outputs

    def _look(
        self,
        layer: DecoderLayer,
        x: Tensor,
        boxes_cxcywh: Tensor,
        grid: tuple[int, int],
        prompt: Tensor,
        prompt_mask: Tensor,
        image: Tensor,
        positions: Tensor,
        num_free: int,
    ) -> Tensor:
        """Presence token and queries (P, 1 + Q, C) after a layer in which each query looks around its box."""
        query_positions = F.pad(self.box_position(self.encode_boxes(boxes_cxcywh).to(x.dtype)), (0, 0, 1, 0))
        bias = F.pad(self.box_bias(boxes_cxcywh, grid), (0, 0, 1, 0))
        return layer(x, query_positions, prompt, prompt_mask, image, positions, bias, num_free)

    def encode_boxes(self, boxes_cxcywh: Tensor) -> Tensor:
        """Sine code (P, Q, 2C) of boxes, in the order y, x, w, h."""
        return torch.cat([sine_encode(boxes_cxcywh[..., i], self.width // 2) for i in (1, 0, 2, 3)], dim=-1)

    def box_bias(self, boxes_cxcywh: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attention bias that depends on where a cell lies relative to a query's box: (P, heads, Q, hw)."""
        x0, y0, x1, y1 = cxcywh_to_xyxy(boxes_cxcywh).unbind(-1)
        height, width = grid
        columns = torch.arange(width, device=boxes_cxcywh.device) / width
        rows = torch.arange(height, device=boxes_cxcywh.device) / height
        bias_x = self.bias_x(self._log_distance(columns, x0, x1))  # (P, Q, w, heads)
        bias_y = self.bias_y(self._log_distance(rows, y0, y1))
        bias = bias_y[:, :, :, None] + bias_x[:, :, None]  # (P, Q, h, w, heads)
        return bias.flatten(2, 3).permute(0, 3, 1, 2)

    def _log_distance(self, cells: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Signed log distance of every cell to both edges: (P, Q, cells, 2)."""
        distance = torch.stack([cells - low[..., None], cells - high[..., None]], dim=-1) * 8
        scaled = distance.sign() * torch.log2(distance.abs() + 1.0) / math.log2(8)
        return scaled.to(self.query_embed.weight.dtype)
