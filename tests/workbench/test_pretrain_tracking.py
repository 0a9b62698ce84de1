"""How a tracker is trained and measured: on a very narrow model, and on cases made by hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sam3
from sam3.checkpoint import load_sam3, save
from sam3.config import (
    DetectorConfig,
    ImageEncoderConfig,
    Sam3Config,
    TextEncoderConfig,
    TrackerConfig,
    TransformerConfig,
)
from sam3.model import Sam3
from sam3.prompts import Prompt
from sam3.tracker.mask_decoder import MaskCandidates
from sam3.tracker.prompt_encoder import BOTTOM_RIGHT, NEGATIVE, PADDING, POSITIVE, TOP_LEFT
from workbench.domains.clips import render_clips
from workbench.pretrain import Stage, TrackingConfig, pretrain_tracker, write_tracker_card
from workbench.pretrain import measure_tracking as measure
from workbench.pretrain.clip_pool import ClipPool, EncodedClip, encode_frames
from workbench.pretrain.tracking import TrackerRun, tracked_parts, with_new_tracker
from workbench.pretrain.tracking_losses import HIDDEN_WEIGHT, Hinting, frame_loss, window_loss
from workbench.pretrain.tracking_recipe import Position, rate_shares
from workbench.pretrain.windows import (
    MIN_FIRST_PX,
    boxes_of,
    click_inside,
    clicks_of,
    corrections,
    draw_window,
    roughened,
)

PART = TransformerConfig(1, 2, 24)
IMAGE_MODEL = Sam3Config(
    ImageEncoderConfig(
        image_size=112,
        width=32,
        num_layers=2,
        num_heads=4,
        mlp_width=48,
        window_size=8,
        global_layers=(1,),
        position_grid=8,
        drop_path=0.0,
        pyramid_scales=(4.0, 2.0, 1.0),
        has_tracker_pyramid=False,
    ),
    TextEncoderConfig(width=8, num_layers=1, num_heads=2, mlp_width=16, unused_projection_width=0),
    DetectorConfig(
        width=24,
        num_queries=12,
        exemplar_encoder=PART,
        fusion_encoder=PART,
        decoder=PART,
        roi_size=3,
        mask_num_heads=2,
        mask_stages=2,
        dropout=0.0,
    ),
)
TRACKER = TrackerConfig(memory_width=12, memory_attention=TransformerConfig(1, 1, 24), mask_decoder=PART, dropout=0.0)
RECIPE = TrackingConfig(
    clips=2,
    clip_frames=6,
    stages=(
        Stage(2, 1, 1, 2),
        Stage(2, 2, 3, 2, with_gaps=0.5, starts_memory=True),
        Stage(1, 2, 5, 2, learnt=0.3, cycle=1, memory_rate=0.1),
    ),
    warmup=2,
    checkpoint_every=2,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def image_model() -> Sam3:
    torch.manual_seed(0)
    return Sam3(IMAGE_MODEL).eval()


@pytest.fixture(scope="module")
def pool(image_model: Sam3, tmp_path_factory: pytest.TempPathFactory) -> ClipPool:
    return ClipPool(tmp_path_factory.mktemp("pool"), image_model.image_encoder, size=3, num_frames=8, seed=1)


def disc(x: float, y: float, radius: float, side: int = 56) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < radius**2


# ------------------------------------------------------------------------------------------------------------ pool
def test_clips_are_made_once_and_always_the_same(image_model: Sam3, tmp_path: Path) -> None:
    encoder = image_model.image_encoder
    first = ClipPool(tmp_path / "a", encoder, size=2, num_frames=3, seed=5)
    clip = first[1]
    assert clip.features.shape == (3, 32, 8, 8) and clip.instance_maps.shape == (3, 112, 112)
    for shown in render_clips(2, 5, num_frames=3, size=112):  # what the same seed draws to measure on
        assert not np.array_equal(clip.instance_maps, shown.instance_maps)
    again = ClipPool(tmp_path / "a", encoder, size=2, num_frames=3, seed=5)
    again.fill()
    other = ClipPool(tmp_path / "b", encoder, size=2, num_frames=3, seed=5)
    other.fill()
    for index in range(2):
        assert np.array_equal(again[index].features, other[index].features)
        assert np.array_equal(again[index].instance_maps, other[index].instance_maps)
    assert np.array_equal(again[1].features, clip.features) and not np.array_equal(again[0].features, clip.features)
    with pytest.raises(ValueError, match=r"holds float16 \(2, 3, 32, 8, 8\), expected .* \(3, 3, 32, 8, 8\)"):
        ClipPool(tmp_path / "a", encoder, size=3, num_frames=3, seed=5)


def test_encoded_frames_are_what_the_image_encoder_sees(image_model: Sam3) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        assert torch.equal(encode_frames(image_model.image_encoder, frames), image_model.image_encoder.trunk(pixels))


# --------------------------------------------------------------------------------------------------------- windows
def test_windows_run_both_ways_and_show_what_is_there_at_first(pool: ClipPool) -> None:
    directions = set()
    for seed in range(20):
        window = draw_window(np.random.default_rng(seed), pool, 3, 2)
        count, frames = window.masks.shape[:2]
        assert frames == 3 and 1 <= count <= 2 and window.masks.dtype == bool
        assert (window.masks[:, 0].sum((1, 2)) >= MIN_FIRST_PX).all()
        assert len(window.clip.features) == 3
        for clip in (pool[index] for index in range(len(pool))):
            places = [
                next((t for t, m in enumerate(clip.instance_maps) if np.array_equal(m, seen)), None)
                for seen in window.clip.instance_maps
            ]
            if None not in places and places[0] != places[-1]:
                directions.add((places[-1] - places[0]) // 2)  # type: ignore[operator]
    assert directions >= {1, -1, 2, -2}


def test_windows_in_which_something_comes_back_are_found() -> None:
    there, gone = disc(28, 28, 9).astype(np.uint8), np.zeros((56, 56), np.uint8)
    stays, hides = (
        EncodedClip(np.zeros((4, 2, 4, 4), np.float16), np.stack(maps))
        for maps in ([there] * 4, [there, gone, gone, there])
    )
    pool: Any = [stays, hides]
    for seed in range(10):
        window = draw_window(np.random.default_rng(seed), pool, 4, 2, with_return=True)
        assert window.masks.any((2, 3)).tolist() == [[True, False, False, True]]
    assert len({draw_window(np.random.default_rng(seed), pool, 4, 2).masks.sum() for seed in range(10)}) == 2
    empty: Any = [EncodedClip(hides.features, hides.instance_maps * 0)]
    with pytest.raises(ValueError, match="none of 1 clips shows an object of 36 pixels"):
        draw_window(np.random.default_rng(0), empty, 4, 2)


def test_clicks_lie_inside_and_boxes_around() -> None:
    rng = np.random.default_rng(0)
    ring = disc(28, 28, 20) & ~disc(28, 28, 12)
    for _ in range(20):
        x, y = click_inside(rng, ring)
        assert ring[int(y * 56), int(x * 56)]
    one_pixel = np.zeros((56, 56), bool)
    one_pixel[3, 7] = True
    assert click_inside(rng, one_pixel) == (7.5 / 56, 3.5 / 56)
    hints = clicks_of(rng, np.stack([ring, one_pixel]))
    assert hints.points_xy.shape == (2, 1, 2) and hints.labels.tolist() == [[POSITIVE], [POSITIVE]]
    boxes = boxes_of(rng, np.stack([ring, disc(14, 40, 8)]))
    assert boxes.labels.tolist() == [[TOP_LEFT, BOTTOM_RIGHT]] * 2
    assert torch.allclose(boxes.points_xy[1], torch.tensor([[6, 32], [22, 48]]) / 56, atol=0.08)


def test_rough_masks_are_near_the_true_ones_and_never_empty() -> None:
    rng, mask = np.random.default_rng(0), disc(28, 28, 14)
    overlaps = []
    for _ in range(60):
        rough = roughened(rng, mask)
        overlaps.append((rough & mask).sum() / (rough | mask).sum())
    assert min(overlaps) > 0.4 and max(overlaps) == 1 and np.mean(np.array(overlaps) < 0.97) > 0.4
    dot = disc(28, 28, 1.2)
    assert all(roughened(rng, dot).any() for _ in range(60))


def test_a_correction_lies_on_the_largest_error() -> None:
    rng, whole = np.random.default_rng(0), disc(28, 28, 14)
    masks = np.stack([whole, whole, whole, np.zeros_like(whole)])
    left = whole.copy()
    left[:, 28:] = False
    found = np.stack([left, whole | disc(48, 8, 5), whole, np.zeros_like(whole)])
    points, labels = corrections(rng, found, masks)
    assert labels.flatten().tolist() == [POSITIVE, NEGATIVE, POSITIVE, PADDING]
    (x, y), (far_x, far_y), (in_x, in_y) = (points[k, 0] * 56 for k in range(3))
    assert x >= 28 and whole[int(y), int(x)]
    assert abs(far_x - 48) < 5 and abs(far_y - 8) < 5
    assert whole[int(in_y), int(in_x)]


# ---------------------------------------------------------------------------------------------------------- losses
def candidates(logits: torch.Tensor, ious: list[list[float]], scores: list[float]) -> MaskCandidates:
    count, masks = logits.shape[:2]
    return MaskCandidates(logits, torch.tensor(ious), torch.zeros(count, masks, 4), torch.tensor(scores))


def test_losses_of_a_frame() -> None:
    truth = torch.zeros(2, 8, 8)
    truth[0, :4] = 1  # the second object is hidden
    good, half = torch.full((8, 8), -12.0), torch.full((8, 8), -12.0)
    good[:4], half[:2] = 12.0, 12.0
    logits = torch.stack([torch.stack([half, good]), torch.stack([good, good])]).requires_grad_()
    found = frame_loss(candidates(logits, [[0.9, 0.8], [0.3, 0.3]], [3.0, -2.0]), truth)
    assert found["dice"].item() == pytest.approx(0, abs=1e-3)  # that of the better candidate, of the visible object
    assert found["focal"].item() == pytest.approx(0, abs=1e-3)
    assert found["iou"].item() == pytest.approx((abs(0.9 - 0.5) + abs(0.8 - 1.0)) / 2)
    score = np.log1p(np.exp(-3.0)) + HIDDEN_WEIGHT * np.log1p(np.exp(-2.0))
    assert found["score"].item() == pytest.approx(score, rel=1e-5)
    assert found["fit"].item() == pytest.approx(0.5)  # the answer is the candidate with the higher score
    (found["focal"] + found["dice"]).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1].any() and not logits.grad[0, 0].any() and not logits.grad[1].any()


def test_the_focal_loss_is_twenty_times_the_mean_over_pixels() -> None:
    truth = torch.zeros(1, 4, 4)
    truth[0, 0, 0] = 1
    found = frame_loss(candidates(torch.zeros(1, 1, 4, 4), [[0.5]], [1.0]), truth)
    pixel = 0.5**2 * np.log(2)
    assert found["focal"].item() == pytest.approx(20 * (0.25 * pixel + 15 * 0.75 * pixel) / 16, rel=1e-5)


@pytest.mark.parametrize("hinting", [Hinting(1, 0, 1, 1), Hinting(0, 1, 1, 0), Hinting(0, 0, 0, 0)])
def test_every_hint_reaches_tracker_and_pyramid(image_model: Sam3, pool: ClipPool, hinting: Hinting) -> None:
    model = with_new_tracker(image_model, TRACKER, 0)
    pyramid, tracker = tracked_parts(model)
    rng = np.random.default_rng(0)
    loss, values = window_loss(tracker.train(), pyramid, [draw_window(rng, pool, 3, 2)], rng, hinting)
    loss.backward()
    assert values["loss"] == pytest.approx(sum(values[name] for name in ("focal", "dice", "iou", "score")), rel=1e-4)
    for part in (pyramid, tracker.mask_decoder, tracker.memory_encoder, tracker.memory_attention):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


# -------------------------------------------------------------------------------------------------------- training
def train(out: Path, model: Sam3, recipe: TrackingConfig = RECIPE, stop_after: int | None = None) -> TrackerRun:
    run = TrackerRun(out, recipe, with_new_tracker(model, TRACKER, recipe.seed), CPU)
    if stop_after is None:
        run.train()
        return run
    usual, left = run._one_step, iter(range(stop_after))

    def step() -> dict[str, float]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return usual()

    run._one_step = step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.train()
    return run


def test_the_loss_falls_and_nothing_but_the_tracker_changes(image_model: Sam3, tmp_path: Path) -> None:
    recipe = replace(RECIPE, clips=1, stages=(Stage(40, 1, 1, 2, with_pyramid=True),), rate=3e-3)
    run = train(tmp_path, image_model, recipe)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40]
    assert lines[1]["loss"] < 0.8 * lines[0]["loss"]
    before, after = image_model.state_dict(), run.averaged().state_dict()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"tracker", "image_encoder"}
    fresh = with_new_tracker(image_model, TRACKER, 0).state_dict()
    for name in ("tracker.mask_decoder.fine_conv.weight", "image_encoder.tracker_pyramid.0.conv3.weight"):
        assert not torch.equal(fresh[name], after[name])


WORKER = """
import sys
from pathlib import Path
import torch
from sam3.checkpoint import load_sam3
from workbench.pretrain import TrackingConfig
from workbench.pretrain.run import join_processes
from workbench.pretrain.tracking import TrackerRun, with_only_tracker_trained
from workbench.pretrain.tracking_recipe import Stage
torch.set_num_threads(1)
recipe = TrackingConfig(clips=2, clip_frames=6, stages=(Stage(2, 4, 1, 2), Stage(1, 2, 5, 2, starts_memory=True)))
device = join_processes("cpu")
model = with_only_tracker_trained(load_sam3(sys.argv[1]))
TrackerRun(Path(sys.argv[2]), recipe, model, device).train()
"""


@pytest.mark.slow
def test_two_processes_share_the_windows_of_a_step(image_model: Sam3, tmp_path: Path) -> None:
    (script := tmp_path / "worker.py").write_text(WORKER)
    save(with_new_tracker(image_model, TRACKER, 0), tmp_path / "start.safetensors")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    norms = []
    for count in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        arguments = ["--nproc-per-node", count, script, tmp_path / "start.safetensors", tmp_path / f"by {count}"]
        subprocess.run([*command, *map(str, arguments)], env=environment, check=True, capture_output=True, timeout=300)
        (line,) = (tmp_path / f"by {count}" / "log.jsonl").read_text().splitlines()
        norms.append(json.loads(line)["gradient"])  # the mean of all steps; the losses are those of the first process
    assert norms[1] == pytest.approx(norms[0], rel=5e-3)


def test_a_resumed_run_equals_an_uninterrupted_one(image_model: Sam3, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", image_model)
    for stop_after in (1, 3, 2):
        train(tmp_path / "parted", image_model, stop_after=stop_after)
    parted = train(tmp_path / "parted", image_model)
    assert parted.step == whole.step == RECIPE.steps == 5
    for one, other in ((parted.model, whole.model), (parted.average, whole.average)):
        values = other.state_dict()
        assert [name for name, value in one.state_dict().items() if not torch.equal(value, values[name])] == []
    with pytest.raises(ValueError, match="holds a training with other settings"):
        train(tmp_path / "whole", image_model, replace(RECIPE, rate=1e-4))


def test_where_a_step_is() -> None:
    first, second, third = RECIPE.stages
    assert [RECIPE.at(step) for step in (0, 1, 2, 4)] == [
        Position(first, begins_stage=True, begins_cycle=True, step=0, frames_seen=0, frames=14),
        Position(first, begins_stage=False, begins_cycle=False, step=1, frames_seen=1, frames=14),
        Position(second, begins_stage=True, begins_cycle=False, step=2, frames_seen=2, frames=14),
        Position(third, begins_stage=True, begins_cycle=True, step=0, frames_seen=0, frames=10),
    ]
    assert [stage.steps for stage in RECIPE.shortened(3).stages] == [1, 1, 1]
    with pytest.raises(IndexError):
        RECIPE.at(5)


def test_what_compares_looks_is_kept_where_memory_learns_slowly(image_model: Sam3, tmp_path: Path) -> None:
    stages = tuple(replace(stage, with_pyramid=True) for stage in RECIPE.stages)
    run = train(tmp_path, image_model, replace(RECIPE, stages=stages), stop_after=4)
    before = {name: value.clone() for name, value in run.averaged().state_dict().items()}
    train(tmp_path, image_model, replace(RECIPE, stages=stages))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    after = {f"tracker.{name}": value for name, value in state["tracker"].items()}
    after |= {f"image_encoder.tracker_pyramid.{name}": value for name, value in state["pyramid"].items()}
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    layer = "tracker.memory_attention.layers.0"
    kept = {f"{layer}.memory_attention.q.weight", f"{layer}.memory_attention.k.weight"}
    kept |= {"tracker.memory_encoder.image_project.weight", "image_encoder.tracker_pyramid.2.conv3.weight"}
    assert kept <= same
    learnt = {f"{layer}.memory_attention.v.weight", "tracker.memory_encoder.mask_project.weight"}
    learnt |= {"image_encoder.tracker_pyramid.0.conv3.weight", "tracker.mask_decoder.fine_conv.weight"}
    assert not learnt & same
    assert set(rate_shares(RECIPE.stages[0]).values()) == {0.0, 1.0}  # the pyramid waits for memory


# ------------------------------------------------------------------------------------------------------- measuring
def test_the_shipped_model_takes_clicks_and_follows() -> None:
    table = measure.follow_table(load_sam3("tiny"), 3, 6)
    assert table["click"]["first"] > 0.5 and table["mask"]["first"] > 0.9
    for kind in ("click", "mask"):
        assert table[kind]["later"] > 0.5 and table[kind]["later"] > table[kind]["stays"] + 0.1


def test_the_best_shift_is_taken_and_of_equal_ones_the_smallest() -> None:
    assert measure.best_shift({-1.0: 0.4, 0.0: 0.5, 1.0: 0.6}) == 1.0
    assert measure.best_shift({-2.0: 0.6, -0.5: 0.6, 1.0: 0.6}) == -0.5


def test_shifts_of_the_object_score_are_measured_and_taken_back() -> None:
    model = load_sam3("tiny")
    usual = measure.score_shift_table(model, 1, 4)
    measure.shift_object_score(model, -40.0)  # nothing is visible any more
    assert max(measure.score_shift_table(model, 1, 4).values()) < min(usual.values())
    measure.shift_object_score(model, 40.0)
    assert measure.score_shift_table(model, 1, 4) == pytest.approx(usual, abs=0.02)


def test_absences_and_what_overlaps_after_them() -> None:
    there, gone, at_edge = disc(28, 28, 6), np.zeros((56, 56), bool), disc(2, 28, 6)
    back = disc(40, 28, 6)
    hidden = np.stack([there, *[gone] * 8, back, back, back, gone, back])
    (absence,) = measure.absences(hidden)
    assert (absence.before, absence.hidden, absence.back) == ((0,), (1, 8), (9, 10, 11)) and absence.is_inside
    longer = np.concatenate([np.stack([there] * 10), hidden])
    assert measure.absences(longer)[0].before == tuple(range(3, 11))  # the last eight
    (left,) = measure.absences(np.stack([at_edge, *[gone] * 8, at_edge]))
    assert not left.is_inside
    assert measure.absences(np.stack([there, *[gone] * 7, there])) == []
    assert measure.absences(np.stack([there, *[gone] * 9])) == []
    assert measure.overlaps(hidden, hidden, absence.back)
    stays = np.broadcast_to(there, hidden.shape)
    assert measure.overlaps(stays, hidden, absence.before) and not measure.overlaps(stays, hidden, absence.back)
    late = hidden.copy()
    late[9] = False  # two frames of three suffice
    assert measure.overlaps(late, hidden, absence.back)


def test_quality_of_planted_masks() -> None:
    truth = np.stack([disc(14, 28, 6), disc(20, 28, 6), np.zeros((56, 56), bool), disc(40, 28, 6)])
    right = measure._quality(truth, truth)
    assert right == {"first": 1, "later": 1, "seen": 1, "visibility": 1, "stays": pytest.approx(right["stays"])}
    assert right["stays"] < 0.3
    stays = measure._quality(np.broadcast_to(truth[0], truth.shape), truth)
    assert stays["later"] == stays["stays"] == right["stays"]
    assert stays["visibility"] == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def finished(image_model: Sam3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    save(image_model, out / "image.safetensors", dtype=torch.float16, metadata={"name": "narrow"})
    follow_table = measure.follow_table
    with pytest.MonkeyPatch.context() as patch:  # two short clips in place of many
        patch.setattr(measure, "follow_table", lambda model, clips, frames, seed=7: follow_table(model, 2, 4, seed))
        few: dict[str, Any] = {"num_clips": 2, "num_cases": 1, "num_return_clips": 1, "num_shift_clips": 1}
        path = pretrain_tracker(out, RECIPE, start=out / "image.safetensors", tracker=TRACKER, device="cpu", **few)
    assert path == out / "model.safetensors"
    return out


def test_nothing_to_measure_on_is_said_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'num_return_clips': 0.*expected at least 1 of each"):
        pretrain_tracker(tmp_path / "out", RECIPE, num_return_clips=0)
    assert not (tmp_path / "out").exists()


def test_the_saved_model_detects_as_before_and_follows(finished: Path) -> None:
    before, after = load_sam3(finished / "image.safetensors"), load_sam3(finished / "model.safetensors")
    assert after.config == replace(
        IMAGE_MODEL, image_encoder=replace(IMAGE_MODEL.image_encoder, has_tracker_pyramid=True), tracker=TRACKER
    )
    assert after.load_report.metadata["name"] == "narrow" and "stages" in after.load_report.metadata["tracker_recipe"]
    pixels = torch.rand(1, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        one, other = (model.detect(pixels, [[Prompt("red circle")]]) for model in (before, after))
    assert torch.equal(one.scores, other.scores) and torch.equal(one.pred_masks, other.pred_masks)
    table = json.loads((finished / "tracking.json").read_text())
    hidden = table["survival"]["hidden"]
    assert hidden["cases"] >= 1
    for kind in ("click", "mask"):
        assert (hidden[f"{kind}_kept"] is None) == (hidden[f"{kind}_followed"] == 0)
    returns = table["returns"]
    assert returns["clips"] == 1 and returns["returns"] >= 1
    assert all(0 <= returns[way]["kept"] <= returns[way]["seen"] <= returns["returns"] for way in ("linked", "tracker"))
    assert table["follow"]["mask"]["first"] > 0.7 and table["follow"]["mask"]["stays"] < 1
    assert table["score_shift"] in measure.SCORE_SHIFTS
    assert table["score_shifts"][str(table["score_shift"])] == max(table["score_shifts"].values())
    assert table["trained"] == sum(p.numel() for part in tracked_parts(after) for p in part.parameters())


def test_the_card_gets_a_section_and_stays_otherwise(finished: Path, tmp_path: Path) -> None:
    shipped = Path(sam3.__file__).parent / "weights" / "tiny.md"
    card = Path(shutil.copy(shipped, tmp_path / "tiny.md"))
    write_tracker_card(finished, card, remarks="Stopped by the clock.")
    once = card.read_text()
    assert "Stopped by the clock." in once and once.index("## The tracker") < once.index("## Limits")
    assert (tmp_path / "tiny_tracker.png").stat().st_size > 5000
    write_tracker_card(finished, card, remarks="Stopped by the clock.")
    assert card.read_text() == once

    def rest(text: str) -> list[str]:
        before, _, after = text.partition("## Limits")
        return [*before.partition("## The tracker")[0].splitlines()[3:], *after.splitlines()]

    assert rest(once) == rest(shipped.read_text())
    (tmp_path / "other.md").write_text("# Something else\n")
    with pytest.raises(ValueError, match="no card that `write_card` wrote"):
        write_tracker_card(finished, tmp_path / "other.md")
    with pytest.raises(ValueError, match="holds no finished tracker"):
        write_tracker_card(tmp_path, card)
    earlier = json.loads((finished / "tracking.json").read_text())
    del earlier["returns"]
    (tmp_path / "tracking.json").write_text(json.dumps(earlier))
    shutil.copy(finished / "log.jsonl", tmp_path)
    with pytest.raises(ValueError, match="tells no 'returns': an earlier version wrote it"):
        write_tracker_card(tmp_path, card)
    assert card.read_text() == once
