"""The tracker at full size against recordings of the original one: single prompts, modules, and two sequences.

Tolerances are those of the recordings: 1e-5 where nothing but rounding differs, more for mask logits, whose deviation
is about 5, and for sequences, where the memory's bfloat16 turns rounding into steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sam3.layers import rotary_table, sine_position_map
from sam3.tracker.memory_bank import MemoryBank, MemoryEntry, Recollection
from sam3.tracker.prompt_encoder import Hints
from sam3.tracker.tracker import FrameFeatures, Tracker, TrackerOutput

pytestmark = pytest.mark.parity
Frames = Callable[[int], FrameFeatures]
SIDE = 1008


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


def test_weights_and_features_are_those_of_the_recordings(
    golden_weights: dict[str, Tensor], golden_frame: Frames
) -> None:
    """Checks the random numbers first: everything below hangs on them."""
    assert sum(float(value.double().sum()) for value in golden_weights.values()) == pytest.approx(6802.0457, abs=1e-2)
    assert float(golden_weights["tracker.maskmem_tpos_enc"].double().sum()) == pytest.approx(8.6291929, abs=1e-5)
    assert golden_weights["tracker.maskmem_backbone.fuser.layers.1.gamma"][0] == pytest.approx(0.13370803, abs=1e-7)
    first = golden_frame(0)
    assert float(first.fine.double().sum()) == pytest.approx(-16064.075, abs=0.5)
    assert float(golden_frame(7).coarse.double().abs().mean()) == pytest.approx(0.64606031, abs=1e-6)


def hints_of(case: dict[str, Any], mask: Tensor | None) -> Hints:
    points, labels = case.get("pts", []), case.get("lab", [])
    if not points or not isinstance(points[0][0], list):
        points, labels = [points], [labels]
    if "box" in case:
        corners = [case["box"][:2], case["box"][2:]]
        points, labels = [corners + p for p in points], [[2, 3] + kinds for kinds in labels]
    xy = torch.tensor(points, dtype=torch.float32).reshape(len(labels), -1, 2)
    return Hints(xy / SIDE, torch.tensor(labels, dtype=torch.long), mask)


IMAGE_CASES = ["p1_click", "p2_posneg", "p3_box", "p4_box_click", "p5_mask_only", "p6_prevmask_2clicks"]
IMAGE_CASES += ["p7_click_cutframe", "p7b_negclick_absent", "p13_box_unstable", "p8_no_prompt"]


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_prompts_in_one_picture(
    name: str,
    golden_tracker: Tracker,
    golden_frame: Frames,
    record: Callable[[str], Any],
    ellipse: Callable[..., Tensor],
) -> None:
    golden = record("a_image_prompts")
    case = golden.facts["prompts"][name]["input"]
    features = golden_frame(case["frame"])
    gain = case.get("hires_gain", 1.0)
    features = replace(features, fine=features.fine * gain, middle=features.middle * gain)
    mask = ellipse(288, *golden.facts["mask_input_ellipse_288"])[None, None] if "mask" in case else None
    hints = hints_of(case, mask)
    if name == "p8_no_prompt":
        hints = Hints.none(1, torch.device("cpu"))

    tokens, rough = golden_tracker.prompt_encoder(hints, (72, 72), SIDE)
    golden.check(f"{name}__sparse", tokens[0, :, ::4], 1e-5)
    golden.check(f"{name}__dense_s", rough.expand(1, 256, 72, 72)[0, ::32, ::16, ::16], 1e-5)
    image = golden_tracker.without_memory(features) + rough
    places = golden_tracker.prompt_encoder.grid_code((72, 72))
    four = golden_tracker.mask_decoder(image, places, tokens, features.middle, features.fine)
    golden.check(f"{name}__masks4_s", four.mask_logits[0, :, ::24, ::24], 3e-4)
    golden.check(f"{name}__ious4", four.iou_scores, 1e-5)
    golden.check(f"{name}__tokens4", four.tokens[0, :, ::4], 5e-5)
    golden.check(f"{name}__score", four.object_score_logits, 2e-4)
    if f"{name}__img_multi_ious" in golden.arrays:
        several = golden_tracker.segment(features, hints, is_ambiguous=True)
        golden.check(f"{name}__img_multi_ious", several.iou_scores, 1e-5)
    single = golden_tracker.segment(features, hints, is_ambiguous=False)
    if f"{name}__img_single_iou" in golden.arrays:
        golden.check(f"{name}__img_single_iou", single.iou_scores, 1e-5)
    if name == "p13_box_unstable":  # the fallback takes the third mask
        assert four.stability()[0, 0] < 0.98 and torch.equal(single.mask_logits[0, 0], four.mask_logits[0, 2])
        golden.check(f"{name}__img_single_low", single.mask_logits[0, 0, ::16, ::16], 8e-3)
    if f"{name}__trk_ptr" not in golden.arrays:
        return
    output = golden_tracker.step(features, hints=hints, with_memory=False)
    assert output.candidates.mask_logits.shape[1] == (3 if golden.facts["prompts"][name]["trk_multimask"] else 1)
    golden.check(f"{name}__trk_low_s", output.mask_logits[0, ::24, ::24], 3e-4)
    golden.check(f"{name}__trk_ious", output.candidates.iou_scores, 1e-5)
    golden.check(f"{name}__trk_ptr", output.pointers, 5e-5)
    golden.check(f"{name}__trk_score", output.object_score_logits, 2e-4)


def test_two_objects_at_once(golden_tracker: Tracker, golden_frame: Frames, record: Callable[[str], Any]) -> None:
    golden = record("a_image_prompts")
    hints = hints_of(golden.facts["prompts"]["p9_batch2"]["input"], None)
    several = golden_tracker.segment(golden_frame(0), hints, is_ambiguous=True)
    golden.check("p9_batch2__img_multi_ious", several.iou_scores, 1e-5)
    golden.check("p9_batch2__img_multi_low_s", several.mask_logits[:, :, ::24, ::24], 3e-4)


@pytest.mark.parametrize("name", ["p10_mask_as_output", "p11_empty_mask_as_output"])
def test_masks_taken_for_the_truth(
    name: str,
    golden_tracker: Tracker,
    golden_frame: Frames,
    record: Callable[[str], Any],
    ellipse: Callable[..., Tensor],
) -> None:
    golden = record("a_image_prompts")
    mask = ellipse(1152, 400, 420, 180, 120, 0.3) > 0 if name.startswith("p10") else torch.zeros(1152, 1152)
    assert int(mask.sum()) == golden.facts["prompts"][name]["area"]
    output = golden_tracker.adopt(golden_frame(0), mask[None], with_memory=False)
    rough = golden_tracker.mask_downsample(mask[None, None].float())
    golden.check(f"{name}__mask_downsample_s", rough[0, 0, ::16, ::16], 1e-5)
    golden.check(f"{name}__ptr", output.pointers, 5e-5)
    golden.check(f"{name}__score", output.object_score_logits, 0)
    golden.check(f"{name}__ious", output.iou_scores, 0)
    golden.check(f"{name}__head_score", output.candidates.object_score_logits, 2e-4)
    assert output.mask_logits.shape == (1, 288, 288)
    covered = float((output.mask_logits > 0).float().mean())
    assert covered == pytest.approx(float(mask.float().mean()), abs=5e-4)  # a cell is 16 pixels


def test_position_codes(golden_tracker: Tracker, record: Callable[[str], Any]) -> None:
    golden, cpu = record("b_modules"), torch.device("cpu")
    for key, code, step in (
        ("pos72_s", sine_position_map(72, 72, 256, cpu), 32),
        ("densepe_s", golden_tracker.prompt_encoder.grid_code((72, 72)), 32),
        ("mempos_s", sine_position_map(72, 72, 64, cpu), 8),
    ):
        golden.check(key, code.view(72, 72, -1).permute(2, 0, 1)[::step, ::16, ::16], 1e-5)
    cosines, sines = rotary_table(72, 72, 256, 1.0, cpu)
    golden.check("rope_cos", cosines[golden.arrays["rope_tokens"]], 1e-5)
    golden.check("rope_sin", sines[golden.arrays["rope_tokens"]], 1e-5)


def test_codes_of_pointers(golden_tracker: Tracker, record: Callable[[str], Any]) -> None:
    rows = record("pointer_rows")
    steps = {
        "c_pass1__f09": record("c_pass1").facts["steps"][-1],
        "d_concept__f11": record("d_concept").facts["frames"][-1],
    }
    for key, step in steps.items():
        assert step["frame"] == int(key[-2:])
        attended = step["attended"]
        codes = golden_tracker.distance_code([distance for _, distance, _ in attended["ptr"]], attended["ptr_norm"])
        rows.check(key, codes.repeat_interleave(4, dim=0), 1e-5)


@pytest.mark.parametrize("kind", ["hard1152", "soft1152"])
def test_memory_encoder(
    kind: str,
    golden_tracker: Tracker,
    golden_frame: Frames,
    record: Callable[[str], Any],
    ellipse: Callable[..., Tensor],
) -> None:
    golden = record("b_modules")
    logits = torch.stack([ellipse(1152, *values) for values in golden.facts["info"]["memenc_ellipses_1152"]])
    seen: list[Tensor] = []
    encoder = golden_tracker.memory_encoder
    handles = [
        part.register_forward_hook(lambda *call: seen.append(call[2])) for part in (encoder.mask_project, encoder)
    ]
    is_present = torch.tensor([True, True])
    rounded = golden_tracker.encode_memory(golden_frame(0), logits, is_present, is_binary=kind == "hard1152")
    for handle in handles:
        handle.remove()
    down, exact = seen
    golden.check(f"memenc_{kind}__down_s", down[:, ::32, ::12, ::12], 1e-4)
    golden.check(f"memenc_{kind}__feat_s", exact[:, ::4, ::12, ::12], 1e-4)
    golden.check(f"memenc_{kind}__mean", exact.mean((2, 3)), 2e-4)
    golden.check(f"memenc_{kind}__std", exact.flatten(2).std(2), 2e-4)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=2**-8, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "length", "pointers"), [("two_mem_8ptr", 10376, 8), ("one_mem_0ptr", 5184, 0)])
def test_memory_attention(
    name: str,
    length: int,
    pointers: int,
    golden_tracker: Tracker,
    golden_frame: Frames,
    golden_noise: Callable[[str, tuple[int, ...]], Tensor],
    record: Callable[[str], Any],
) -> None:
    golden, layers = record("b_modules"), golden_tracker.memory_attention.layers
    memory = golden_noise(f"golden/b/{name}/mem", (length, 2, 64)).transpose(0, 1)
    places = 0.5 * golden_noise(f"golden/b/{name}/pos", (length, 2, 64)).transpose(0, 1)
    seen: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda *call: seen.append(call[2])) for layer in layers]
    received = golden_tracker.memory_attention(golden_frame(1).coarse, memory, places, pointers)
    for handle in handles:
        handle.remove()
    for index in (0, 3):
        golden.check(f"memattn_{name}__layer{index}_s", seen[index].transpose(0, 1)[::194, :, ::16], 1e-4)
    golden.check(f"memattn_{name}__out_s", received.flatten(2).permute(2, 0, 1)[::148, :, ::8], 1e-4)


class Sequence:
    """Runs frames one after the other, and compares each with its recording."""

    def __init__(self, tracker: Tracker, golden: Any, by_quality: bool, num_frames: int):
        self.tracker, self.golden, self.num_frames = tracker, golden, num_frames
        self.bank = MemoryBank(by_quality=by_quality)

    def recall(self, frame: int, attended: dict[str, Any]) -> Recollection:
        """What the frame remembers, which must be exactly what was recorded."""
        choice = self.bank.choose(frame, num_frames=self.num_frames)
        assert list(choice.conditioning) == attended["cond"]
        assert [[7 - age, t] for age, t in reversed(choice.recent)] == attended["noncond"]
        assert [list(pair) for pair in choice.pointers] == [[t, distance] for t, distance, _ in attended["ptr"]]
        assert choice.span == attended["ptr_norm"]
        return self.bank.recall(frame, num_frames=self.num_frames)

    def check(self, prefix: str, output: TrackerOutput, thinning: int, heads: dict[str, Any]) -> None:
        self.golden.check(f"{prefix}__ious", output.candidates.iou_scores, 5e-4)
        self.golden.check(f"{prefix}__score", output.object_score_logits, 5e-3)
        is_visible = [score > 0 for score in heads["score"]]
        assert (output.object_score_logits > 0).tolist() == is_visible
        assert output.candidates.iou_scores.argmax(1).tolist() == heads["best"]
        self.golden.check(f"{prefix}__low_s", output.mask_logits[:, :: 8 * thinning, :: 8 * thinning], 2e-2)

    def check_memory(self, prefix: str, entry: MemoryEntry, channels: int, cells: int) -> None:
        maps = entry.maps.float()
        self.golden.check(f"{prefix}__mem_mean", maps.mean((2, 3)), 5e-3)
        expected = torch.from_numpy(self.golden.arrays[f"{prefix}__mem_s"])
        error = (maps[:, ::channels, ::cells, ::cells] - expected).norm() / expected.norm()
        assert error < 4e-3, f"{prefix}: relative error {error} of the memory"


@pytest.mark.slow
def test_following_one_object_after_a_click(
    golden_tracker: Tracker, golden_frame: Frames, record: Callable[[str], Any]
) -> None:
    golden = record("c_pass1")
    run = Sequence(golden_tracker, golden, by_quality=False, num_frames=10)
    hints = Hints(torch.tensor([[[0.4, 0.45]]]), torch.tensor([[1]]))
    click = golden_tracker.step(golden_frame(0), hints=hints)
    assert click.memory is not None and click.memory.is_conditioning
    run.check("click0", click, 3, golden.facts["steps"][0]["click"]["heads"][0])
    golden.check("click0__ptr", click.pointers, 2e-3)
    run.check_memory("click0", click.memory, 16, 12)
    run.bank.store(0, click.memory)
    for step in golden.facts["steps"][2:]:
        frame, prefix = step["frame"], f"f{step['frame']:02}"
        features, memory = golden_frame(frame), run.recall(frame, step["attended"])
        golden.check(f"{prefix}__pix", golden_tracker.remember(features, memory)[:, ::32, ::16, ::16], 1e-2)
        output = golden_tracker.step(features, memory=memory)
        run.check(prefix, output, 3, step["heads"][0])
        golden.check(f"{prefix}__ptr", output.pointers, 2e-3)
        assert output.memory is not None and not output.memory.is_conditioning
        run.check_memory(prefix, output.memory, 16, 12)
        run.bank.store(frame, output.memory)
        run.bank.trim(frame)


def consolidated(masks: Tensor) -> Tensor:
    """Mask logits (K, 288, 288) the original kept of given masks (K, 1152, 1152): cut at the size of the video, where
    later ones come first, and folded."""
    video = F.interpolate(masks[:, None].float(), size=(480, 640), mode="bilinear", antialias=True) > 0.5
    for later in range(1, len(video)):
        video[:later] &= ~video[later]
    logits = torch.where(video, 1024.0, -1024.0)
    return F.interpolate(logits, size=(288, 288), mode="bilinear", antialias=True).squeeze(1)


def apart(low: Tensor) -> Tensor:
    """The same at the size of the model's input, every pixel left to its strongest object."""
    logits = F.interpolate(low[:, None], size=(SIDE, SIDE), mode="bilinear").squeeze(1)
    strongest = logits.argmax(0)
    return torch.stack([torch.where(strongest == k, mask, mask.clamp(max=-10)) for k, mask in enumerate(logits)])


@pytest.mark.slow
def test_following_three_objects_given_as_masks(
    golden_tracker: Tracker, golden_frame: Frames, record: Callable[[str], Any], ellipse: Callable[..., Tensor]
) -> None:
    """Memory is made in a second step, from masks that other objects have competed for, as with a detector."""
    golden = record("d_concept")
    run = Sequence(golden_tracker, golden, by_quality=True, num_frames=20)
    low = torch.stack([ellipse(288, *values) for values in golden.facts["objects"]])
    masks = F.interpolate(low[:, None], size=(1152, 1152), mode="bilinear").squeeze(1) > 0
    start = golden_tracker.adopt(golden_frame(0), masks, with_memory=False)
    golden.check("add__stored_ptr", start.pointers, 2e-3)
    golden.check("add__stored_score", start.object_score_logits, 0)
    start = replace(start, mask_logits=consolidated(masks))
    golden.check("add__stored_low2", start.mask_logits[:, ::16, ::16], 0.5)
    stored = golden_tracker.memorise(
        golden_frame(0), start, is_conditioning=True, is_binary=True, mask_logits=apart(start.mask_logits)
    )
    golden.check("add__mem_mean", stored.maps.float().mean((2, 3)), 5e-3)
    for step in golden.facts["frames"][1:]:
        frame, prefix = step["frame"], f"f{step['frame']:02}"
        features, output = golden_frame(frame), start
        if frame:
            memory = run.recall(frame, step["attended"])
            golden.check(f"{prefix}__pix", golden_tracker.remember(features, memory)[:, ::64, ::16, ::16], 1e-2)
            output = golden_tracker.step(features, memory=memory, with_memory=False)
            run.check(prefix, output, 4, step["heads"][0])
            golden.check(f"{prefix}__ptr", output.pointers[:, ::4], 2e-3)
        logits = F.interpolate(output.mask_logits[:, None], size=(1152, 1152), mode="bilinear").squeeze(1)
        area = (logits > 0).flatten(1).sum(1)
        won = torch.stack([(logits.argmax(0) == k) & (logits[k] > 0) for k in range(3)]).flatten(1).sum(1)
        ratio = won / area.clamp(min=1)
        np.testing.assert_allclose(ratio, step["area_ratio"], atol=2e-3)
        logits = torch.where((ratio < 0.3)[:, None, None], logits.clamp(max=-10), logits)
        is_present = (logits > 0).flatten(1).any(1)
        entry = golden_tracker.memorise(
            features, output, is_conditioning=not frame, is_binary=False, mask_logits=logits, is_present=is_present
        )
        if frame:
            assert entry.quality == pytest.approx(step["eff_iou_score"], abs=5e-4)
        run.check_memory(prefix, entry, 16, 18)
        run.bank.store(frame, entry)
        run.bank.trim(frame)
