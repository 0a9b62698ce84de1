"""Seeded clips of moving shapes with exact masks in every frame: what a tracker is trained and measured on.

A random generator comes in; a `Clip` (frames, instance maps, described objects, phrases) goes out. Objects move
straight, in curves or nervously, turn, grow and shrink, cross each other, pass behind a pillar, leave and come back;
some have a look-alike. The same generator state gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from workbench.domains import drawing
from workbench.domains.canvas import Canvas
from workbench.domains.drawing import pick
from workbench.domains.looks import (
    DIAMETERS_PX,
    TURNS_DEG,
    Look,
    colour_distance,
    grey_tone,
    ground,
    jittered,
    random_look,
    rim_tone,
    second_tone,
)
from workbench.domains.phrases import Phrase, Scene, SceneObject, sample_phrases

if TYPE_CHECKING:
    from workbench.video_files import VideoLabels

CLIP_SIZE = 224

_MARGIN = 0.06  # how far a sprite's colours reach beyond its outline, in diameters
_HIDDEN_FRAMES = 10
_PAN_PX = 24


@dataclass(frozen=True, eq=False)
class Clip:
    """A rendered clip with exact truth.

    Attributes:
        frames: (F,H,W,3) uint8 RGB.
        instance_maps: (F,H,W) uint8; 0 is ground, i are the visible pixels of `objects[i - 1]`.
        objects: what moves through the clip; the box is that of the first frame with the object in it, zeros if none.
        phrases: true ones first, then absent ones. None names a size, because sizes change.
    """

    frames: np.ndarray
    instance_maps: np.ndarray
    objects: tuple[SceneObject, ...]
    phrases: tuple[Phrase, ...]

    def masks(self, number: int) -> np.ndarray:
        """(F,H,W) bool of the object with this number, counted from 1; all False where it is hidden or away."""
        return self.instance_maps == number

    def to_labels(self, name: str) -> VideoLabels:
        """The clip as a labelled video: a masklet for every phrase and every object it is true of."""
        from sam3.rle import Rle
        from sam3.video.results import masklet_of_rles
        from workbench.video_files import VideoLabels

        rles = {
            number: [Rle.of(mask) for mask in self.masks(number)]
            for number in np.unique(self.instance_maps).tolist()
            if number
        }
        asked = {phrase.text: phrase for phrase in self.phrases}
        pairs = [
            (text, number)
            for text, phrase in asked.items()
            for number in rles
            if phrase.matches(self.objects[number - 1])
        ]
        masklets = tuple(masklet_of_rles(id_, text, rles[number]) for id_, (text, number) in enumerate(pairs, start=1))
        height, width = self.frames.shape[1:3]
        return VideoLabels(name, len(self.frames), (height, width), masklets, tuple(asked))


@dataclass(frozen=True)
class _Actor:
    """One object: its sprite, and where it is in each frame."""

    sprite: Image.Image  # RGBA, its colours reach beyond its outline
    diameter: float  # of the sprite's shape, in its pixels
    about: SceneObject
    centres: np.ndarray  # (F,2) x, y
    diameters: np.ndarray  # (F,)
    angles: np.ndarray  # (F,) degrees


@dataclass(frozen=True)
class _Meeting:
    """A point that an actor passes in some frame, perhaps at a given velocity (2,)."""

    frame: float
    point: np.ndarray
    velocity: np.ndarray | None = None


def render_clip(
    rng: np.random.Generator, *, num_frames: int = 16, size: int = CLIP_SIZE, num_objects: tuple[int, int] = (2, 6)
) -> Clip:
    """A random clip; at least one object is seen in it.

    Args:
        rng: source of every random choice.
        num_frames: F, at least 1. Passing behind a pillar takes about 10 frames, or a third of a shorter clip.
        size: side of the square frames in pixels, at least 64; objects and speeds grow with it.
        num_objects: inclusive range; crowded clips have more.

    Raises:
        ValueError: numbers that cannot be drawn.

    Example:
        >>> clip = render_clip(np.random.default_rng(0), num_frames=4)
        >>> clip.frames.shape, clip.instance_maps.shape, int(clip.instance_maps.max()) <= len(clip.objects)
        ((4, 224, 224, 3), (4, 224, 224), True)
    """
    if num_frames < 1 or size < 64 or not 1 <= num_objects[0] <= num_objects[1] <= 40:
        raise ValueError(
            f"received num_frames={num_frames}, size={size}, num_objects={num_objects}; expected at least 1 frame, 64 "
            "pixels, and (low, high) with 1 <= low <= high <= 40"
        )
    while True:
        look = random_look(rng, num_objects)
        tint = rng.uniform(-9, 9, 3) if rng.random() < 0.5 else np.zeros(3)
        scene = ground(rng, look, size + _PAN_PX, tint)
        pillar, hidden = _pillar(rng, scene, size, num_frames) if rng.random() < 0.4 else (None, None)
        actors = _cast(rng, look, scene, tint, size, num_frames, hidden)
        instance_maps, frames = _filmed(rng, look, scene, actors, pillar, size, num_frames)
        objects = tuple(_with_box(actor.about, instance_maps, number) for number, actor in enumerate(actors, start=1))
        seen = tuple(item for item in objects if item.box_xyxy_px != (0.0, 0.0, 0.0, 0.0))
        if seen:
            phrases = _phrases(rng, Scene(frames[0], instance_maps[0], seen, has_colour=not look.is_photographic))
            return Clip(frames, instance_maps, objects, phrases)


def render_clips(
    num_clips: int, seed: int, *, num_frames: int = 16, size: int = CLIP_SIZE, num_objects: tuple[int, int] = (2, 6)
) -> Iterator[Clip]:
    """Clips one after another; clip i depends on (seed, i) only, so a longer run starts with the shorter one."""
    for index in range(num_clips):
        rng = np.random.default_rng([seed, index])
        yield render_clip(rng, num_frames=num_frames, size=size, num_objects=num_objects)


# ---------------------------------------------------------------- who plays


def _cast(
    rng: np.random.Generator,
    look: Look,
    scene: np.ndarray,
    tint: np.ndarray,
    size: int,
    num_frames: int,
    hidden: _Meeting | None,
) -> list[_Actor]:
    """The actors from back to front. The first passes behind the pillar, the next two cross."""
    crossing = None
    if look.num_objects > 1 and rng.random() < 0.5:
        crossing = _Meeting(rng.uniform(0.3, 0.7) * num_frames, rng.uniform(0.3, 0.7, 2) * size)
    alike = rng.random() < 0.5
    actors: list[_Actor] = []
    for number in range(look.num_objects):
        meeting = hidden if number == 0 and hidden else crossing if number in (1, 2) or look.num_objects == 2 else None
        sizes = ("small", "small", "medium") if number == 0 and hidden else look.sizes
        traits = {"kind": pick(rng, look.kinds), "colour": pick(rng, look.colours), "texture": pick(rng, look.textures)}
        if alike and actors and rng.random() < 0.5:  # like an earlier one but for one trait at most
            model, kept = pick(rng, actors).about, pick(rng, (*traits, "none", "none", "none"))
            traits = {name: own if name == kept else getattr(model, name) for name, own in traits.items()}
        about = SceneObject(**traits, size=pick(rng, sizes), box_xyxy_px=())
        actors.append(_actor(rng, look, scene, tint, about, size, num_frames, meeting))
    order = rng.permutation(len(actors))
    return [actors[index] for index in order]


def _actor(
    rng: np.random.Generator,
    look: Look,
    scene: np.ndarray,
    tint: np.ndarray,
    about: SceneObject,
    size: int,
    num_frames: int,
    meeting: _Meeting | None,
) -> _Actor:
    diameter = rng.uniform(*DIAMETERS_PX[about.size]) * size / CLIP_SIZE
    time = np.arange(num_frames)
    swing, beat = rng.uniform(0, 0.3) * (rng.random() < 0.6), rng.uniform(0.05, 0.3)
    diameters = diameter * (1 + swing * np.sin(beat * time + rng.uniform(0, 2 * math.pi)))
    turn = TURNS_DEG.get(about.kind)
    if turn is None:
        angles = rng.uniform(-180, 180) + time * rng.normal(0, 5) * (rng.random() < 0.7)
    else:
        angles = turn * np.sin(rng.uniform(0.02, 0.15) * time + rng.uniform(0, 2 * math.pi))
    centres = _path(rng, diameter, size, num_frames, meeting)
    sprite, drawn = _sprite(rng, look, scene, tint, about, float(diameters.max()) * 1.2)
    return _Actor(sprite, drawn, about, centres, diameters, angles)


def _path(
    rng: np.random.Generator, diameter: float, size: int, num_frames: int, meeting: _Meeting | None
) -> np.ndarray:
    """Centres (F,2) of a straight, curved or nervous way that turns back at the edges, or a little beyond them."""
    if meeting is None:
        meeting = _Meeting(0.0, rng.uniform(0.12, 0.88, 2) * size)
    time = np.arange(num_frames) - meeting.frame
    heading, speed = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 6.5) * size / CLIP_SIZE * (rng.random() < 0.93)
    velocity = speed * np.array([math.cos(heading), math.sin(heading)])
    way = time[:, None] * (velocity if meeting.velocity is None else meeting.velocity)
    style = rng.random() if meeting.velocity is None else 0.0
    if style > 0.4:  # curved: around a circle that moves on
        radius, step = rng.uniform(0.06, 0.3) * size, rng.uniform(0.04, 0.2) * rng.choice([-1, 1])
        phase = rng.uniform(0, 2 * math.pi)
        way = 0.4 * way + radius * (_circle(phase + step * time) - _circle(np.array([phase])))
    if style > 0.75:  # nervous
        jumps = np.cumsum(rng.normal(0, 2.5 * size / CLIP_SIZE, (num_frames, 2)), axis=0)
        way = way + jumps - jumps[min(max(round(meeting.frame), 0), num_frames - 1)]
    leaves = rng.random() < 0.35 and meeting.velocity is None
    edge = -0.75 * diameter if leaves else 0.35 * diameter
    return _folded(meeting.point + way, edge, size - edge)


def _circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _folded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values that turn back at both ends of a range."""
    span = high - low
    place = np.mod(values - low, 2 * span)
    return low + np.minimum(place, 2 * span - place)


def _sprite(
    rng: np.random.Generator, look: Look, scene: np.ndarray, tint: np.ndarray, about: SceneObject, diameter: float
) -> tuple[Image.Image, float]:
    """The drawn object as RGBA, square, centred on its shape; and its diameter in these pixels."""
    alpha = drawing.outline_alpha(rng, about.kind, diameter, aspect=rng.uniform(0.85, 1.15))
    margin = math.ceil(_MARGIN * diameter) + 2
    side = max(alpha.size) + 2 * margin
    wide = Image.new("L", (side, side), 0)
    wide.paste(alpha, ((side - alpha.width) // 2, (side - alpha.height) // 2))
    tone = _tone(rng, look, scene, tint, about.colour)
    surface = np.broadcast_to(tone[:, None, None], (3, side, side))
    if about.texture != "solid":
        pattern = drawing.texture_field(rng, about.texture, side, side, diameter)
        surface = surface + pattern * (second_tone(rng, tone) - tone)[:, None, None]
    surface = surface * drawing.shade_field(rng, side, side, look.shade)
    if rng.random() < 0.7:
        rim = rim_tone(rng, tone)[:, None, None]
        surface = rim + drawing.core_of(wide, min(max(diameter / 40, 0.5), 1.5)) * (surface - rim)
    planes = np.concatenate([np.clip(surface, 0, 255), np.asarray(wide, np.float32)[None]])
    return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)).astype(np.uint8), "RGBA"), diameter


def _tone(rng: np.random.Generator, look: Look, scene: np.ndarray, tint: np.ndarray, colour: str) -> np.ndarray:
    if not look.is_photographic:
        return jittered(rng, colour)
    behind = scene[:, ::7, ::7].mean(axis=(1, 2))
    for _ in range(8):
        tone = grey_tone(rng, rng.uniform(25, 235), tint * 1.5)
        if colour_distance(tone, behind) > 1.5 * look.contrast:
            break
    return tone


def _pillar(
    rng: np.random.Generator, scene: np.ndarray, size: int, num_frames: int
) -> tuple[tuple[np.ndarray, int, int], _Meeting]:
    """A bar across the picture, as its colours (3,h,w) and corner, and the way of an object that it hides."""
    hidden = min(_HIDDEN_FRAMES, max(1, num_frames // 3))
    speed = rng.uniform(3.0, 5.0) * size / CLIP_SIZE
    width = round(hidden * speed + rng.uniform(28, 44) * size / CLIP_SIZE)
    place = round(rng.uniform(0.25, 0.75) * size - width / 2)
    mean = scene[:, ::7, ::7].mean(axis=(1, 2))
    tone = np.clip(mean + rng.choice([-1, 1]) * rng.uniform(25, 60) + rng.uniform(-15, 15, 3), 8, 247)
    grain = drawing.smooth_noise(rng, width, size, int(rng.integers(4, 20)))
    surface = (tone[:, None, None] + 26 * (grain - 0.5)).astype(np.float32)
    point = np.array([place + width / 2, rng.uniform(0.2, 0.8) * size])
    velocity = np.array([rng.choice([-1, 1]) * speed, rng.uniform(-0.6, 0.6) * size / CLIP_SIZE])
    frame = rng.uniform(0.4, 0.6) * num_frames
    if rng.random() < 0.5:
        return (surface, 0, place), _Meeting(frame, point[::-1], velocity[::-1])
    return (surface.transpose(0, 2, 1), place, 0), _Meeting(frame, point, velocity)


# ---------------------------------------------------------------- filming


def _filmed(
    rng: np.random.Generator,
    look: Look,
    scene: np.ndarray,
    actors: list[_Actor],
    pillar: tuple[np.ndarray, int, int] | None,
    size: int,
    num_frames: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Instance maps (F,H,W) and frames (F,H,W,3)."""
    maps, frames = np.empty((num_frames, size, size), np.uint8), np.empty((num_frames, size, size, 3), np.uint8)
    pan = _folded(_PAN_PX / 2 + np.arange(num_frames)[:, None] * rng.normal(0, 0.7, 2), 0, _PAN_PX).astype(int)
    pan = pan if rng.random() < 0.4 else np.full_like(pan, _PAN_PX // 2)
    blur = rng.uniform(0.5, 1.2) if look.is_photographic or rng.random() < 0.2 else 0.0
    noise = np.float32(rng.uniform(1.5, 8) if rng.random() < 0.7 else 0.0)
    flicker = 1 + rng.uniform(0, 0.04) * np.sin(rng.uniform(0.1, 0.8) * np.arange(num_frames))
    for frame, (left, top) in enumerate(pan):
        canvas = Canvas(scene[:, top : top + size, left : left + size].copy())
        for number, actor in enumerate(actors, start=1):
            _place(canvas, actor, frame, number)
        if pillar is not None:
            surface, x, y = pillar
            canvas.paint(np.ones(surface.shape[1:], np.float32), surface, x, y)
            canvas.instances[max(0, y) : max(0, y + surface.shape[1]), max(0, x) : max(0, x + surface.shape[2])] = 0
        if blur:
            canvas.blur(blur)
        canvas.pixels *= np.float32(flicker[frame])
        if noise:
            canvas.pixels += noise * drawing.pixel_noise(rng, size, size)
        maps[frame], frames[frame] = canvas.instances, canvas.image()
    return maps, frames


def _place(canvas: Canvas, actor: _Actor, frame: int, number: int) -> None:
    """Paints an actor where it is in a frame; it owns the pixels that it covers by more than half."""
    (x, y), scale = actor.centres[frame], actor.diameter / actor.diameters[frame]
    reach = math.ceil(actor.sprite.width / 2 / scale * 1.42) + 1
    left, top = math.floor(x) - reach, math.floor(y) - reach
    x0, y0 = max(0, left), max(0, top)
    height, width = canvas.instances.shape
    wide, high = min(width, left + 2 * reach) - x0, min(height, top + 2 * reach) - y0
    if wide <= 0 or high <= 0:
        return
    angle = math.radians(actor.angles[frame])
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    middle = actor.sprite.width / 2
    dx, dy = x - x0, y - y0
    matrix = (cos, sin, middle - cos * dx - sin * dy, -sin, cos, middle + sin * dx - cos * dy)
    turned = actor.sprite.transform((wide, high), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    bounds = turned.getchannel("A").getbbox()
    if bounds is None:
        return
    planes = np.asarray(turned.crop(bounds), np.float32).transpose(2, 0, 1)
    alpha = planes[3] * np.float32(1 / 255)
    x0, y0 = x0 + bounds[0], y0 + bounds[1]
    canvas.paint(alpha, planes[:3], x0, y0)
    canvas.instances[y0 : y0 + alpha.shape[0], x0 : x0 + alpha.shape[1]][alpha > 0.5] = number


def _with_box(about: SceneObject, instance_maps: np.ndarray, number: int) -> SceneObject:
    for instances in instance_maps:
        rows, columns = np.nonzero(instances == number)
        if len(rows):
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            return replace(about, box_xyxy_px=tuple(float(value) for value in box))
    return replace(about, box_xyxy_px=(0.0, 0.0, 0.0, 0.0))


def _phrases(rng: np.random.Generator, scene: Scene) -> tuple[Phrase, ...]:
    """Up to three true phrases and two absent ones that name no size."""
    true: dict[str, Phrase] = {}
    absent: dict[str, Phrase] = {}
    while not true or not absent:
        for phrase in sample_phrases(rng, scene, 4, 4):
            if phrase.size is None:
                (true if any(map(phrase.matches, scene.objects)) else absent)[phrase.text] = phrase
    return (*list(true.values())[:3], *list(absent.values())[:2])
