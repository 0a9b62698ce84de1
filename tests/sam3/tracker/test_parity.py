"""Our tracker against that of transformers, with the same random weights, loaded from a folder of its video model.

transformers follows every object alone, and its policy differs from the original's in what it remembers: the memory it
made is put into our bank, so that every step is compared for itself; `test_golden.py` compares whole sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sam3.checkpoint import load_sam3, save
from sam3.layers import sine_position_map
from sam3.model import Sam3
from sam3.tracker.mask_decoder import MaskCandidates
from sam3.tracker.memory_bank import MemoryBank, MemoryEntry
from sam3.tracker.prompt_encoder import Hints
from sam3.tracker.tracker import FrameFeatures, Tracker

pytestmark = pytest.mark.parity
SIDE, GRID, WIDTH = 112, (8, 8), 128
MEMORY_WIDTH = 64  # transformers has no other
NUM_FRAMES = 9
MASK_TOLERANCE = 2e-4  # mask logits of several units, after up to nine steps that build on each other


@dataclass(frozen=True)
class Pair:
    """The same model twice, and a video."""

    ours: Sam3
    theirs: Any
    image_model: Any
    folder: Path
    frames: Tensor

    @property
    def tracker(self) -> Tracker:
        return self.ours.require_tracker()

    def features(self, frame: int) -> FrameFeatures:
        return self.ours.tracker_features(self.ours.image_encoder.trunk(self.frames[frame][None]))


@torch.no_grad()
def randomise_tracker(model: Any) -> None:
    """Weights at which every part matters, and objects are visible."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 and "layer_norm" in name and name.endswith("weight"):
            parameter.normal_(1.0, 0.1)
        elif parameter.ndim < 2:
            parameter.normal_(0.3 if name.endswith("scale") else 0.0, 0.1)
        elif name.startswith(("no_", "memory_temporal", "occlusion")) or "embed.weight" in name or "token" in name:
            parameter.normal_(0.0, 0.5)
        else:
            parameter.normal_(0.0, (parameter.numel() / len(parameter)) ** -0.5)
    model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(2.0)
    for mlp in model.mask_decoder.output_hypernetworks_mlps:
        mlp.proj_out.weight.mul_(3.0)


@pytest.fixture(scope="module")
def pair(oracle: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    from transformers import (
        Sam3TrackerConfig,
        Sam3TrackerModel,
        Sam3TrackerVideoModel,
        Sam3VideoConfig,
        Sam3VideoModel,
    )

    torch.manual_seed(3)
    sizes_of_detector = oracle("even").model.config.to_dict()
    for part in ("geometry_encoder", "detr_encoder", "detr_decoder", "mask_decoder"):
        sizes_of_detector[f"{part}_config"]["hidden_size"] = WIDTH
    sizes_of_detector["vision_config"]["fpn_hidden_size"] = WIDTH
    sizes = dict.fromkeys(("memory_attention_hidden_size", "memory_encoder_hidden_size"), WIDTH)
    sizes |= dict.fromkeys(("mask_downsampler_embed_dim", "memory_fuser_embed_dim"), WIDTH)
    heads = {"hidden_size": WIDTH, "num_attention_heads": 4, "mlp_dim": 48, "iou_head_hidden_dim": WIDTH}
    config = Sam3VideoConfig(
        detector_config=sizes_of_detector,
        tracker_config={
            "vision_config": sizes_of_detector["vision_config"],
            "prompt_encoder_config": {"hidden_size": WIDTH},
            "mask_decoder_config": heads,
            "memory_attention_num_layers": 2,
            "memory_attention_feed_forward_hidden_size": 40,
            "memory_fuser_intermediate_dim": 4 * WIDTH,
            "image_size": SIDE,
            **sizes,
        },
        low_res_mask_size=32,
    )
    video = Sam3VideoModel(config).eval()
    randomise_tracker(video.tracker_model)
    video.tracker_model.shared_image_embedding.load_state_dict(
        video.tracker_model.prompt_encoder.shared_embedding.state_dict()
    )
    for parameter in (*video.tracker_neck.parameters(), *video.detector_model.vision_encoder.backbone.parameters()):
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim < 2 else parameter[0].numel() ** -0.5)
    folder = tmp_path_factory.mktemp("video")
    video.save_pretrained(folder)
    parts = {
        f"vision_encoder.backbone.{n}": t for n, t in video.detector_model.vision_encoder.backbone.state_dict().items()
    }
    parts |= {f"vision_encoder.neck.{n}": t for n, t in video.tracker_neck.state_dict().items()}
    theirs = Sam3TrackerVideoModel(config.tracker_config).eval()
    theirs.load_state_dict(parts | video.tracker_model.state_dict())
    image_config = {name: config.tracker_config.to_dict()[name] for name in ("vision_config", "mask_decoder_config")}
    prompt_config = {"hidden_size": WIDTH, "image_size": SIDE}
    image_model = Sam3TrackerModel(Sam3TrackerConfig(prompt_encoder_config=prompt_config, **image_config)).eval()
    assert not image_model.load_state_dict(theirs.state_dict(), strict=False).missing_keys
    frames = torch.rand(1, 3, SIDE, SIDE) + 0.4 * torch.rand(NUM_FRAMES, 3, SIDE, SIDE)
    return Pair(load_sam3(folder), theirs, image_model, folder, frames - 0.7)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def assert_close(received: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(received.reshape(expected.shape), expected, rtol=0, atol=tolerance)


# ------------------------------------------------------------------------------------------------------------- modules
@pytest.mark.parametrize("points", [1, 2, 5])
@pytest.mark.parametrize("with_mask", [False, True])
def test_prompt_encoder(pair: Pair, points: int, with_mask: bool) -> None:
    xy = torch.rand(3, points, 2) * SIDE
    labels = torch.randint(-1, 4, (3, points))
    mask = torch.randn(3, 1, 32, 32) * 5 if with_mask else None
    tokens, rough = pair.tracker.prompt_encoder(Hints(xy / SIDE, labels, mask), GRID, SIDE)
    expected_tokens, expected_rough = pair.theirs.prompt_encoder(
        input_points=xy[None], input_labels=labels[None], input_boxes=None, input_masks=mask
    )
    assert tokens.shape == (3, points + 1, WIDTH)
    assert_close(tokens, expected_tokens)
    assert_close(rough.expand(len(expected_rough), -1, *GRID), expected_rough)
    code = pair.tracker.prompt_encoder.grid_code(GRID).transpose(1, 2)
    assert_close(code, pair.theirs.get_image_wide_positional_embeddings()[0])


@pytest.mark.parametrize("is_ambiguous", [True, False])
def test_mask_decoder(pair: Pair, is_ambiguous: bool) -> None:
    decoder = pair.tracker.mask_decoder
    image, tokens = torch.randn(3, WIDTH, *GRID), torch.randn(3, 4, WIDTH)
    fine, middle = torch.randn(1, WIDTH // 8, 32, 32), torch.randn(1, WIDTH // 4, 16, 16)
    places = torch.randn(1, 64, WIDTH)
    received = decoder(image, places, tokens, middle, fine)
    received = received.ambiguous() if is_ambiguous else received.single(with_fallback=True)
    masks, ious, sam_tokens, scores = pair.theirs.mask_decoder(
        image_embeddings=image,
        image_positional_embeddings=places.transpose(1, 2).unflatten(2, GRID).expand(3, -1, -1, -1),
        sparse_prompt_embeddings=tokens[:, None],
        dense_prompt_embeddings=torch.zeros_like(image),
        multimask_output=is_ambiguous,
        high_resolution_features=[fine.expand(3, -1, -1, -1), middle.expand(3, -1, -1, -1)],
    )
    assert masks.std() > 0.5 and (masks > 0).any() and (masks < 0).any()
    assert_close(received.mask_logits, masks)
    assert_close(received.iou_scores, ious)
    assert_close(received.tokens, sam_tokens)
    assert_close(received.object_score_logits, scores)


@torch.no_grad()
def test_fallback_of_unstable_masks(pair: Pair) -> None:
    """Small logits hang on the margin: some masks are replaced by a better one, others are not."""
    decoder = pair.theirs.mask_decoder
    logits = torch.randn(6, 4, 32, 32) * torch.tensor([0.02, 0.2, 1.0, 5.0, 20.0, 80.0]).view(-1, 1, 1, 1)
    logits[5, 0] = -80.0  # empty
    scores = torch.rand(6, 4)
    masks, ious = decoder._dynamic_multimask_via_stability(logits[None], scores[None])
    received = MaskCandidates(logits, scores, torch.zeros(6, 4, 2), torch.zeros(6)).single(with_fallback=True)
    is_kept = (received.mask_logits[:, 0] == logits[:, 0]).flatten(1).all(1)
    assert is_kept.any() and not is_kept.all() and is_kept[5]
    assert_close(received.mask_logits, masks, 0.0)
    assert_close(received.iou_scores, ious, 0.0)


def test_memory_encoder(pair: Pair) -> None:
    image, masks = torch.randn(3, WIDTH, *GRID), torch.randn(3, 1, 128, 128) * 10
    expected, places = pair.theirs.memory_encoder(image, masks)
    assert expected.std() > 0.1
    assert_close(pair.tracker.memory_encoder(image, masks), expected)
    code = sine_position_map(*GRID, MEMORY_WIDTH, torch.device("cpu")).transpose(1, 2)
    assert_close(code.expand(3, -1, -1), places.flatten(2))


@pytest.mark.parametrize("pieces", [0, 12])
def test_memory_attention(pair: Pair, pieces: int) -> None:
    image, count = torch.randn(1, WIDTH, *GRID), 3 * 64 + pieces
    memory, places = torch.randn(2, count, MEMORY_WIDTH), torch.randn(1, count, MEMORY_WIDTH)
    received = pair.tracker.memory_attention(image, memory, places, pieces)
    code = sine_position_map(*GRID, WIDTH, torch.device("cpu"))
    for row in range(2):
        expected = pair.theirs.memory_attention(
            current_vision_features=image.flatten(2).permute(2, 0, 1),
            memory=memory[row : row + 1].transpose(0, 1),
            current_vision_position_embeddings=code.transpose(0, 1),
            memory_posision_embeddings=places.transpose(0, 1),
            num_object_pointer_tokens=pieces,
        )
        assert_close(received[row].flatten(1).T, expected.squeeze())
    assert (received[0] - received[1]).abs().max() > 0.01


@pytest.mark.parametrize("is_binary", [True, False])
def test_memory_of_a_frame(pair: Pair, is_binary: bool) -> None:
    """Visible and hidden objects; masks come at the memory's size, since their way to it differs."""
    image, logits = torch.randn(1, WIDTH, *GRID), torch.randn(3, 128, 128) * 4
    scores = torch.tensor([1.0, -0.5, 0.3])
    expected, _ = pair.theirs._encode_new_memory(
        image.flatten(2).permute(2, 0, 1).expand(-1, 3, -1), logits[:, None], scores[:, None, None], is_binary
    )
    features = FrameFeatures(torch.zeros(1), torch.zeros(1), image)
    received = pair.tracker.encode_memory(features, logits, scores > 0, is_binary=is_binary)
    assert received.dtype == expected.dtype == torch.bfloat16
    as_theirs = received.flatten(2).permute(2, 0, 1).float()
    torch.testing.assert_close(as_theirs, expected.float(), rtol=2**-7, atol=1e-5)  # a step of bfloat16
    assert (as_theirs != expected.float()).float().mean() < 0.02


# --------------------------------------------------------------------------------------------------------------- steps
def test_tracker_pyramid_is_theirs(pair: Pair) -> None:
    features = pair.features(2)
    levels, _, *_ = pair.theirs._prepare_vision_features(session_of(pair), 2, 1)
    for level, expected in zip((features.fine, features.middle, features.coarse), levels, strict=True):
        assert_close(level.flatten(2).permute(2, 0, 1), expected)


def session_of(pair: Pair) -> Any:
    from transformers import Sam3TrackerVideoInferenceSession

    return Sam3TrackerVideoInferenceSession(pair.frames, SIDE, SIDE, dtype=torch.float32)


def add_hints(session: Any, frame: int, hints: Hints) -> None:
    for index in range(len(hints)):
        place = session.obj_id_to_idx(index + 1)
        inputs = {
            "point_coords": hints.points_xy[index][None, None] * SIDE,
            "point_labels": hints.labels[index][None, None],
        }
        session.add_point_inputs(place, frame, inputs)
        session.obj_with_new_inputs.append(index + 1)


def their_output(session: Any, frame: int, key: str, is_conditioning: bool) -> Tensor:
    """Of all objects, first axis."""
    kind = "cond_frame_outputs" if is_conditioning else "non_cond_frame_outputs"
    values = [outputs[kind][frame][key] for outputs in session.output_dict_per_obj.values()]
    return torch.cat(values, dim=1 if key == "maskmem_features" else 0)


def their_entry(session: Any, frame: int, is_conditioning: bool) -> MemoryEntry:
    maps, pointers, scores = (
        their_output(session, frame, key, is_conditioning)
        for key in ("maskmem_features", "object_pointer", "object_score_logits")
    )
    count = maps.shape[1]
    return MemoryEntry(
        maps.permute(1, 2, 0).unflatten(2, GRID),
        pointers.reshape(count, WIDTH),
        scores.flatten(),
        torch.ones(count),
        is_conditioning,
    )


@pytest.mark.parametrize("kind", ["one click each", "a box and two clicks"])
@pytest.mark.parametrize("is_backward", [False, True])
def test_every_step_of_a_video(pair: Pair, kind: str, is_backward: bool) -> None:
    first, step = (NUM_FRAMES - 1, -1) if is_backward else (0, 1)
    hints = {
        "one click each": Hints(torch.tensor([[[0.3, 0.4]], [[0.8, 0.2]]]), torch.tensor([[1], [1]])),
        "a box and two clicks": Hints(
            torch.tensor([[[0.1, 0.2], [0.6, 0.9]], [[0.7, 0.2], [0.3, 0.6]]]), torch.tensor([[2, 3], [1, 0]])
        ),
    }[kind]
    session, bank, differences = session_of(pair), MemoryBank(by_quality=False), 0
    add_hints(session, first, hints)
    for frame in range(first, first + step * NUM_FRAMES, step):
        is_first = frame == first
        expected = pair.theirs(session, frame_idx=frame, reverse=is_backward)
        features = pair.features(frame)
        memory = None if is_first else bank.recall(frame, num_frames=NUM_FRAMES, is_backward=is_backward)
        output = pair.tracker.step(features, memory=memory, hints=hints if is_first else None)
        assert_close(output.mask_logits, expected.pred_masks, MASK_TOLERANCE)
        assert_close(output.object_score_logits, expected.object_score_logits)
        assert_close(output.pointers, their_output(session, frame, "object_pointer", is_first), 2e-5)

        entry = their_entry(session, frame, is_first)
        large = their_output(session, frame, "high_res_masks", is_first).flatten(0, 1)
        large = F.interpolate(large[:, None] if large.ndim == 3 else large, (128, 128), mode="bilinear", antialias=True)
        own = pair.tracker.memorise(
            features, output, is_conditioning=is_first, is_binary=is_first, mask_logits=large.reshape(2, 128, 128)
        )
        torch.testing.assert_close(own.maps.float(), entry.maps.float(), rtol=2**-6, atol=1e-4)
        differences += int((own.maps != entry.maps).sum())
        bank.store(frame, entry)
        if not is_first:
            assert len(bank.recall(frame + step, num_frames=NUM_FRAMES, is_backward=is_backward).maps) <= 7
    assert differences < 0.02 * 2 * NUM_FRAMES * MEMORY_WIDTH * 64
    assert (output.mask_logits > 0).any() and output.mask_logits.std() > 0.5


def test_a_correction_that_looks_at_memory(pair: Pair) -> None:
    """Clicks in a frame that was followed before: memory is looked at, and the frame stays an ordinary one."""
    hints = Hints(torch.tensor([[[0.3, 0.4]], [[0.8, 0.2]]]), torch.tensor([[1], [1]]))
    more = Hints(torch.tensor([[[0.5, 0.5], [0.2, 0.2]], [[0.1, 0.6], [0.9, 0.9]]]), torch.tensor([[1, 0], [1, 1]]))
    session, bank = session_of(pair), MemoryBank(by_quality=False)
    add_hints(session, 0, hints)
    for frame in range(3):
        pair.theirs(session, frame_idx=frame)
        bank.store(frame, their_entry(session, frame, frame == 0))
    add_hints(session, 2, more)
    expected = pair.theirs(session, frame_idx=2)
    output = pair.tracker.step(pair.features(2), memory=bank.recall(2, num_frames=NUM_FRAMES), hints=more)
    assert output.candidates.mask_logits.shape[1] == 1
    assert_close(output.mask_logits, expected.pred_masks, MASK_TOLERANCE)
    assert_close(output.object_score_logits, expected.object_score_logits)


@pytest.mark.parametrize("is_ambiguous", [True, False])
def test_image_model(pair: Pair, is_ambiguous: bool) -> None:
    """Clicks on one picture. transformers leaves out what marks a map as seen without memory; so does this test."""
    xy, labels = torch.rand(3, 2, 2), torch.tensor([[1, 0], [1, 1], [2, 3]])
    expected = pair.image_model(
        pixel_values=pair.frames[:1],
        input_points=xy[None] * SIDE,
        input_labels=labels[None],
        multimask_output=is_ambiguous,
    )
    features = pair.features(0)
    received = pair.tracker.decode(features.coarse, features, Hints(xy, labels), is_ambiguous=is_ambiguous)
    assert_close(received.mask_logits, expected.pred_masks[0], MASK_TOLERANCE)
    assert_close(received.iou_scores, expected.iou_scores[0])
    assert_close(received.object_score_logits, expected.object_score_logits)


def test_a_mask_taken_for_the_truth(pair: Pair) -> None:
    """At the size where both take masks; transformers makes the pointer of one of three masks, we of the single one."""
    mask = torch.zeros(1, 128, 128)
    mask[0, 30:90, 20:70] = 1
    output = pair.tracker.adopt(pair.features(0), mask, with_memory=False)
    low = F.interpolate((20 * mask - 10)[None], size=(32, 32), mode="bilinear", antialias=True)
    assert_close(output.mask_logits, low[0])
    rough = pair.theirs.mask_downsample(mask[None])
    levels = [
        level.permute(1, 2, 0).unflatten(2, s)
        for level, s in zip(
            pair.theirs._prepare_vision_features(session_of(pair), 0, 1)[0], ((32, 32), (16, 16), (8, 8)), strict=True
        )
    ]
    expected = pair.theirs._single_frame_forward(input_masks=rough, image_embeddings=levels, multimask_output=False)
    assert_close(output.pointers, expected.object_pointer)
    assert_close(output.candidates.mask_logits, expected.pred_masks, MASK_TOLERANCE)


# --------------------------------------------------------------------------------------------------------------- files
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_folder_survives_the_way_through_our_layouts(pair: Pair, tmp_path: Path) -> None:
    """And each of the models that read such a folder takes what we write."""
    from safetensors.torch import load_file
    from transformers import Sam3Model, Sam3TrackerModel, Sam3TrackerVideoModel, Sam3VideoModel

    save(pair.ours, tmp_path / "a.pt", layout="native")
    save(load_sam3(tmp_path / "a.pt"), tmp_path / "b.safetensors")
    save(load_sam3(tmp_path / "b.safetensors"), tmp_path / "back", layout="transformers")
    before, after = (load_file(path / "model.safetensors") for path in (pair.folder, tmp_path / "back"))
    before = {name.replace("tracker_model.tracker_model", "tracker_model"): tensor for name, tensor in before.items()}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_sam3(tmp_path / "back").config == pair.ours.config
    for kind in (Sam3VideoModel, Sam3Model, Sam3TrackerVideoModel, Sam3TrackerModel):
        _, info = kind.from_pretrained(tmp_path / "back", output_loading_info=True)
        assert not any(info[key] for key in info if key != "unexpected_keys"), (kind, info)
        assert kind is not Sam3VideoModel or not info["unexpected_keys"]
