"""What a pre-training step looks at: scenes from a pool, turned and re-lit, and the questions asked of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sam3.boxes import xyxy_to_cxcywh
from sam3.prompts import Prompt
from workbench.augment import drawn_box
from workbench.domains import shapes
from workbench.domains.drawing import pick
from workbench.domains.shapes import Phrase, Scene


class ScenePool:
    """Scenes by number, rendered when first asked for and kept."""

    def __init__(self, size: int, seed: int, *, is_plain: bool = False):
        self.size, self.seed, self.is_plain = size, seed, is_plain
        self._scenes: dict[int, Scene] = {}

    def __getitem__(self, index: int) -> Scene:
        if index not in self._scenes:
            rng = np.random.default_rng([self.seed, 1, index, int(self.is_plain)])
            if self.is_plain:
                scene = shapes.render_scene(rng, num_objects=(4, 7), is_plain=True)
            else:
                scene = shapes.render_scene(rng, num_objects=(6, 11) if index % 2 else (2, 7))
            self._scenes[index] = scene
        return self._scenes[index]


@dataclass(frozen=True)
class SceneBatch:
    """Pictures of one step: pixel values (B, 3, S, S), instance maps (B, S, S) and the scenes they came from."""

    pixel_values: Tensor
    instance_map: Tensor
    scenes: tuple[Scene, ...]

    @property
    def boxes_xyxy_px(self) -> list[np.ndarray]:
        return [np.array([o.box_xyxy_px for o in s.objects], dtype=np.float32).reshape(-1, 4) for s in self.scenes]


def turned(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene flipped and turned at random; scenes with words stay upright."""
    if any(o.kind == "word" for o in scene.objects):
        return scene
    image, labels = scene.image, scene.instance_map
    quarter_turns, is_flipped = int(rng.integers(4)), bool(rng.integers(2))
    image, labels = np.rot90(image, quarter_turns), np.rot90(labels, quarter_turns)
    if is_flipped:
        image, labels = image[:, ::-1], labels[:, ::-1]
    side = image.shape[0]
    objects = []
    for o in scene.objects:
        x0, y0, x1, y1 = o.box_xyxy_px
        for _ in range(quarter_turns):  # counter-clockwise: x' = y, y' = side - x
            x0, y0, x1, y1 = y0, side - x1, y1, side - x0
        if is_flipped:
            x0, x1 = side - x1, side - x0
        objects.append(shapes.SceneObject(o.kind, o.colour, o.texture, o.size, (x0, y0, x1, y1)))
    return Scene(np.ascontiguousarray(image), np.ascontiguousarray(labels), tuple(objects), scene.has_colour)


def draw_scenes(
    pools: tuple[ScenePool, ScenePool], plain_share: float, rng: np.random.Generator, count: int, device: torch.device
) -> SceneBatch:
    """`count` random scenes, turned and re-lit, each from the second (plain) pool with probability `plain_share`."""
    chosen = [pools[int(rng.random() < plain_share)] for _ in range(count)]
    scenes = tuple(turned(pool[int(rng.integers(pool.size))], rng) for pool in chosen)
    pixels = np.stack([s.image for s in scenes]).astype(np.float32)
    lit = pixels * rng.uniform(0.8, 1.2, (count, 1, 1, 1)) + rng.uniform(-20, 20, (count, 1, 1, 1))
    values = torch.from_numpy(np.clip(lit, 0, 255).astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    labels = torch.from_numpy(np.stack([s.instance_map for s in scenes])).long()
    return SceneBatch(values.to(device), labels.to(device), scenes)


def unknown_word(rng: np.random.Generator) -> str:
    """A made-up word, whose meaning only an exemplar can tell."""
    syllables = [pick(rng, "bcdfghjklmnprstvwz") + pick(rng, "aeiou") for _ in range(int(rng.integers(2, 4)))]
    return "".join(syllables) + pick(rng, ("", "n", "x", "rt", "lid", "l"))


@dataclass(frozen=True)
class Question:
    """One (picture, prompt) pair: the prompt and the indices of the objects it should find."""

    prompt: Prompt
    found: tuple[int, ...]


def ask(scene: Scene, phrase: Phrase, rng: np.random.Generator, exemplar_share: float) -> Question:
    """A question about a scene: the phrase alone, or with exemplars, or exemplars in place of words."""
    found = [i for i, o in enumerate(scene.objects) if phrase.matches(o)]
    if not found or rng.random() >= exemplar_share:
        return Question(Prompt(phrase.text), tuple(found))
    text: str | None = phrase.text
    if rng.random() < 0.6:
        # Without known words an exemplar stands for its kind and colour, and its phrase says nothing or a new word.
        shown = scene.objects[found[int(rng.integers(len(found)))]]
        phrase = Phrase("", kind=shown.kind, colour=shown.colour)
        found = [i for i, o in enumerate(scene.objects) if phrase.matches(o)]
        text = None if rng.random() < 0.5 else unknown_word(rng)
    others = [i for i in range(len(scene.objects)) if i not in found]
    positives = rng.permutation(found)[: int(rng.integers(1, 3))].tolist()
    negatives = rng.permutation(others)[: int(rng.integers(0, 3))].tolist()
    boxes, box_labels, points, point_labels = [], [], [], []
    for label, indices in ((1, positives), (0, negatives)):
        for index in indices:
            if rng.random() < 0.75:
                boxes.append(drawn_box(np.array(scene.objects[index].box_xyxy_px), rng, scene.image.shape[0]))
                box_labels.append(label)
            else:
                rows, columns = np.nonzero(scene.instance_map == index + 1)
                pixel = int(rng.integers(len(rows)))
                points.append((columns[pixel] + 0.5, rows[pixel] + 0.5))
                point_labels.append(label)
    return Question(Prompt(text, boxes, box_labels, points, point_labels), tuple(found))


def masks_of(labels: Tensor, image: Tensor, number: Tensor, stride: int) -> Tensor:
    """(N, S / stride, S / stride) bool: the pixels of `image` i labelled `number` i + 1."""
    small = labels[:, stride // 2 :: stride, stride // 2 :: stride]
    return small[image] == (number + 1)[:, None, None]


def probes(boxes: list[Tensor], image_of: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noised and true boxes of all objects for every pair, cxcywh (P, E, 4) each, and which are real (P, E)."""
    longest = max(len(b) for b in boxes)
    true = torch.full((len(boxes), longest, 4), 0.5)
    valid = torch.zeros(len(boxes), longest, dtype=torch.bool)
    for row, corners in enumerate(boxes):
        true[row, : len(corners)] = xyxy_to_cxcywh(corners)
        valid[row, : len(corners)] = True
    rows = torch.tensor(image_of)
    true, valid = true[rows], valid[rows]
    noise = torch.from_numpy(rng.uniform(-1, 1, true.shape).astype(np.float32))
    size = true[..., 2:]
    centre = true[..., :2] + noise[..., :2] * size * 0.25
    return torch.cat([centre, size * (1 + 0.3 * noise[..., 2:])], dim=-1).clamp(0.01, 0.99), true, valid
