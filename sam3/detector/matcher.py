"""Which query answers for which object: Hungarian matching for one half of the queries, several per object for the
other.

In: predictions of one layer and `Targets`. Out: `Matches`. Paper: DETR-style matching, appendix C.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sam3.boxes import cxcywh_to_xyxy, pairwise_giou, pairwise_iou


@dataclass(frozen=True)
class Targets:
    """What P (picture, prompt) pairs should yield; the objects of all pairs are packed one after another.

    Attributes:
        pair: (N,) long, ascending: the pair each object belongs to.
        boxes_cxcywh: (N, 4) normalised.
        num_pairs: P.
        masks: (N, H, W) bool, or None when no object has a mask.
        has_mask: (N,) bool, which objects have a mask; all when None.
        presence_weight: (P,) float; 0 leaves a pair out of the presence loss (its answer is not known). None = all 1.
        is_exhaustive: (P,) bool; False: objects beyond those listed may be there, so unmatched queries are not blamed.
    """

    pair: Tensor
    boxes_cxcywh: Tensor
    num_pairs: int
    masks: Tensor | None = None
    has_mask: Tensor | None = None
    presence_weight: Tensor | None = None
    is_exhaustive: Tensor | None = None

    @property
    def counts(self) -> list[int]:
        """Objects per pair."""
        return torch.bincount(self.pair, minlength=self.num_pairs).tolist()

    @property
    def is_present(self) -> Tensor:
        """(P,) bool."""
        return torch.bincount(self.pair, minlength=self.num_pairs) > 0


@dataclass(frozen=True)
class Matches:
    """Couples of one query and one object: three long tensors (M,); `target` indexes the packed objects."""

    pair: Tensor
    query: Tensor
    target: Tensor


def match_one_to_one(pred_logits: Tensor, pred_boxes_cxcywh: Tensor, targets: Targets) -> Matches:
    """The assignment of queries to objects with the least total cost.

    Cost: 2 focal class + 5 L1 of cxcywh + 2 negative GIoU. When a pair has more objects than queries, the best-fitting
    objects are served. A prediction that is not finite is never chosen while another can be.

    Args:
        pred_logits: (P, Q). pred_boxes_cxcywh: (P, Q, 4).
    """
    logits, boxes = pred_logits.detach().float(), pred_boxes_cxcywh.detach().float()
    probability = logits.sigmoid()
    focal = -0.25 * (1 - probability) ** 2 * F.logsigmoid(logits) + 0.75 * probability**2 * F.logsigmoid(-logits)
    pairs, queries, chosen = [], [], []
    start = 0
    # One cost matrix for all (pairs x queries) against all objects would be mostly thrown away; blocks are cheap.
    for pair, count in enumerate(targets.counts):
        if count:
            truth = targets.boxes_cxcywh[start : start + count].float()
            cost = (
                5 * torch.cdist(boxes[pair], truth, p=1)
                + 2 * focal[pair][:, None]
                - 2 * pairwise_giou(cxcywh_to_xyxy(boxes[pair]), cxcywh_to_xyxy(truth))
            )
            rows, columns = linear_sum_assignment(torch.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=1e9).cpu().numpy())
            order = np.argsort(columns)
            pairs += [pair] * len(rows)
            queries += rows[order].tolist()
            chosen += (columns[order] + start).tolist()
        start += count
    return Matches(
        *(torch.tensor(values, dtype=torch.long, device=logits.device) for values in (pairs, queries, chosen))
    )


def match_one_to_many(
    pred_logits: Tensor, pred_boxes_cxcywh: Tensor, targets: Targets, *, top: int = 4, threshold: float = 0.4
) -> Matches:
    """The few best queries of each object: score 0.3 probability + 0.7 IoU among the best `top` and above `threshold`.

    A query may serve several objects.
    """
    logits, boxes = pred_logits.detach().float(), cxcywh_to_xyxy(pred_boxes_cxcywh.detach().float())
    if not len(targets.pair):
        empty = torch.zeros(0, dtype=torch.long, device=logits.device)
        return Matches(empty, empty, empty)
    iou, _ = pairwise_iou(boxes[targets.pair], cxcywh_to_xyxy(targets.boxes_cxcywh.float())[:, None])  # (N, Q, 1)
    score = 0.3 * logits.sigmoid()[targets.pair] + 0.7 * iou.squeeze(-1)
    num_queries = score.shape[1]
    bar = torch.quantile(score, max(1.0 - top / num_queries, 0.0), dim=1, keepdim=True)
    target, query = ((score > bar) & (score > threshold)).nonzero().unbind(1)
    return Matches(targets.pair[target], query, target)
