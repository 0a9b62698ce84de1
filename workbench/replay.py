"""Replay against forgetting: scenes that the model answered before it learnt are asked again while it learns, and every
answer is held to what it was.

In: the base model, scenes, a step of the training. Out: a loss. What the model said is kept query by query, with the
confidence it had, right or wrong: an adaptation is to change what it was shown, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from sam3.detector.detector import DetectorOutput
from sam3.model import Sam3
from sam3.prompts import Prompt
from workbench.adapters import Adapter
from workbench.batches import Key, ViewPool, mixed_precision

_KEPT_SCORE = 0.3  # masks of queries with a higher score are kept
_PRESENCE, _MATCH, _BOX, _MASK, _DICE = 30.0, 30.0, 40.0, 30.0, 15.0


@dataclass(frozen=True)
class Answer:
    """What the base model said to one phrase.

    Attributes:
        presence_logit: (). match_logits: (Q,). boxes_cxcywh: (Q, 4).
        query: (N,) the queries whose masks are kept. masks: (N, H, W) float16, probabilities.
    """

    presence_logit: Tensor
    match_logits: Tensor
    boxes_cxcywh: Tensor
    query: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Again:
    """One scene of a step, and the phrases asked of it again."""

    key: Key
    phrases: tuple[str, ...]


class Replay:
    """The replayed scenes of a pool, which keeps their features, and the answers of the base model."""

    def __init__(self, pool: ViewPool):
        self.pool = pool
        self.keys: list[Key] = [(scene, 0) for scene in range(pool.num_learn, len(pool.examples))]
        self.answers: dict[tuple[Key, str], Answer] = {}

    def remember(
        self, model: Sam3, adapter: Adapter, *, progress: bool = False, on_scene: Callable[[], None] | None = None
    ) -> None:
        """Asks the model every phrase of every scene; it is in evaluation mode afterwards.

        Args:
            model: carries the adapter.
            adapter: switched off meanwhile.
            progress: show a bar.
            on_scene: called before each scene; may raise.
        """
        if not self.keys:
            return
        model.eval()
        with adapter.disabled(), torch.no_grad(), mixed_precision(model):
            for key in tqdm(self.keys, desc="what it knows", unit="scene", disable=not progress):
                if on_scene is not None:
                    on_scene()
                phrases = self._phrases(key)
                output = model.detect(self.pool.features([key]), [[Prompt(phrase) for phrase in phrases]])
                for pair, phrase in enumerate(phrases):
                    self.answers[key, phrase] = _answer(output, pair)

    def _phrases(self, key: Key) -> list[str]:
        return [concept.phrase for concept in self.pool.examples[key[0]].concepts]

    def choose(self, num_scenes: int, num_phrases: int, rng: np.random.Generator) -> list[Again]:
        """Some scenes and some phrases of each."""
        chosen = []
        for index in rng.permutation(len(self.keys))[:num_scenes]:
            phrases = self._phrases(self.keys[index])
            picked = tuple(phrases[i] for i in rng.permutation(len(phrases))[:num_phrases])
            chosen.append(Again(self.keys[index], picked))
        return chosen

    def loss(self, model: Sam3, again: Sequence[Again], num_pairs: int) -> Tensor:
        """How far the answers have moved; 0 where nothing has changed.

        Args:
            model: with the adapter on, in evaluation mode.
            again: some of the scenes of a step.
            num_pairs: questions of the whole step, over which is averaged.
        """
        answers = [self.answers[scene.key, phrase] for scene in again for phrase in scene.phrases]
        with_masks = torch.tensor([pair for pair, answer in enumerate(answers) if len(answer.query)], dtype=torch.long)
        with mixed_precision(model):
            output = model.detect(
                self.pool.features([scene.key for scene in again]),
                [[Prompt(phrase) for phrase in scene.phrases] for scene in again],
                with_masks=len(with_masks) > 0,
                mask_pairs=with_masks.to(model.device),
            )
        return change(output, answers) / num_pairs


def change(output: DetectorOutput, answers: Sequence[Answer]) -> Tensor:
    """The weighted difference of P answers from what they were, summed over questions.

    Match logits count as much as their query was or is believed, boxes as much as it was, masks where they were kept.
    """
    presence = torch.stack([answer.presence_logit for answer in answers])
    match = torch.stack([answer.match_logits for answer in answers])
    boxes = torch.stack([answer.boxes_cxcywh for answer in answers])
    is_there, match_now = presence.sigmoid()[:, None], output.pred_logits.float()
    believed = torch.maximum(match.sigmoid(), match_now.detach().sigmoid()) * is_there
    was_believed = match.sigmoid() * is_there
    # Quadratic for small steps: the sign of a rounding error must not be learnt from.
    box_change = F.smooth_l1_loss(output.pred_boxes_cxcywh.float(), boxes, reduction="none", beta=0.02).sum(-1)
    total = (
        _PRESENCE * divergence(output.presence_logits.float(), presence.sigmoid()).sum()
        + _MATCH * (divergence(match_now, match.sigmoid()) * believed).sum()
        + _BOX * (box_change * was_believed).sum()
    )
    pair = torch.cat([torch.full_like(answer.query, index) for index, answer in enumerate(answers)])
    if not len(pair):
        return total
    logits = output.masks_of(pair, torch.cat([answer.query for answer in answers])).float().flatten(1)
    before = torch.cat([answer.masks for answer in answers]).float().flatten(1)
    now = logits.sigmoid()
    overlap = (2 * (now * before).sum(1) + 1) / ((now**2).sum(1) + (before**2).sum(1) + 1)
    return total + _MASK * divergence(logits, before).mean(1).sum() + _DICE * (1 - overlap).sum()


def divergence(logits: Tensor, probability: Tensor) -> Tensor:
    """Elementwise Kullback-Leibler divergence of the logits' Bernoulli distribution from the given one; 0 if equal."""
    cross = F.binary_cross_entropy_with_logits(logits, probability, reduction="none")
    return cross - F.binary_cross_entropy(probability, probability, reduction="none")


def _answer(output: DetectorOutput, pair: int) -> Answer:
    query = (output.scores[pair] > _KEPT_SCORE).nonzero().squeeze(1)
    masks = output.masks_of(torch.full_like(query, pair), query)
    return Answer(
        presence_logit=output.presence_logits[pair].float(),
        match_logits=output.pred_logits[pair].float(),
        boxes_cxcywh=output.pred_boxes_cxcywh[pair].float(),
        query=query,
        masks=masks.float().sigmoid().half(),
    )
