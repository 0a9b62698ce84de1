"""For tests of the whole job: a very small model with random weights, a folder of drawn, labelled pictures, and the
command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

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
from workbench.__main__ import app
from workbench.adapters import Plan, add_adapter
from workbench.examples import ExampleSet
from workbench.formats import rle_of

SIDE = 40
PART = TransformerConfig(1, 2, 24)
SMALL = Sam3Config(
    ImageEncoderConfig(
        image_size=32,
        patch_size=8,
        width=16,
        num_layers=2,
        num_heads=2,
        mlp_width=24,
        window_size=2,
        global_layers=(1,),
        position_grid=4,
        drop_path=0.0,
        pyramid_scales=(4.0, 2.0, 1.0),
        has_tracker_pyramid=False,
    ),
    TextEncoderConfig(context_length=12, width=8, num_layers=1, num_heads=2, mlp_width=16, unused_projection_width=0),
    DetectorConfig(
        width=16,
        num_queries=6,
        exemplar_encoder=PART,
        fusion_encoder=PART,
        decoder=TransformerConfig(2, 2, 24),
        roi_size=3,
        mask_num_heads=2,
        mask_stages=2,
        dropout=0.0,
    ),
)
SMALL_VIDEO = replace(
    SMALL,
    image_encoder=replace(SMALL.image_encoder, has_tracker_pyramid=True),
    tracker=TrackerConfig(
        memory_width=8,
        memory_attention=TransformerConfig(1, 1, 24),
        mask_decoder=TransformerConfig(1, 2, 24),
        num_fuser_layers=1,
        dropout=0.0,
    ),
)


@torch.no_grad()
def random_model(seed: int = 0, config: Sam3Config = SMALL) -> Sam3:
    """Random weights that are large enough for every part to matter."""
    torch.manual_seed(seed)
    model = Sam3(config)
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.numel():
            parameter.normal_(0.0, 0.3 if parameter.shape[0] > 1000 else parameter[0].numel() ** -0.5)
    return model.eval()


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of a very small model with random weights."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save(random_model(), path)
    return path


@torch.no_grad()
def random_video_model() -> Sam3:
    """As `random_model` with a tracker, and so sure of itself that it finds and follows something in most clips."""
    model = random_model(3, SMALL_VIDEO)
    model.detector.scoring.project_query.weight.mul_(10)
    model.detector.decoder.presence_head.layers[-1].bias.fill_(3.0)
    return model


@pytest.fixture(scope="session")
def video_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of `random_video_model`."""
    path = tmp_path_factory.mktemp("weights") / "small_video.safetensors"
    save(random_video_model(), path)
    return path


@pytest.fixture
def video_adapter(tmp_path: Path, video_weights: Path) -> Callable[..., Path]:
    """Saves an adapter for `video_weights` that changes all it can change by `change`; gives its folder."""

    def make(plan: str, change: float = 0.1) -> Path:
        adapter = add_adapter(load_sam3(video_weights), Plan(plan, rank=2), ["red circle", "star"])  # type: ignore[arg-type]
        chance = torch.Generator().manual_seed(1)
        state = adapter.state()
        adapter.restore({n: v + change * torch.randn(v.shape, generator=chance) for n, v in state.items()})
        return adapter.save(tmp_path / f"adapter_{plan}")

    return make


def draw_coco(folder: Path, name: str, count: int, seed: int) -> None:
    """Writes `name`.json and its pictures: a disc in two of three, a bar in every second one."""
    chance = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images, annotations = [], []
    (folder / "images").mkdir(exist_ok=True, parents=True)
    for number in range(1, count + 1):
        pixels = chance.integers(90, 140, (SIDE, SIDE, 3)).astype(np.uint8)
        disc = (rows - chance.integers(8, 14)) ** 2 + (columns - chance.integers(10, 30)) ** 2 < 36
        top, left = int(chance.integers(22, 28)), int(chance.integers(2, 12))
        bar = (rows >= top) & (rows < top + 8) & (columns >= left) & (columns < left + 20)
        for category, (mask, colour, is_there) in enumerate(
            ((disc, (220, 40, 40), number % 3 > 0), (bar, (40, 60, 220), number % 2 == 0)), start=1
        ):
            if is_there:
                pixels[mask] = colour
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": category,
                        "segmentation": rle_of(mask),
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                    }
                )
        file_name = f"{name}_{number:02d}.png"
        Image.fromarray(pixels).save(folder / "images" / file_name)
        images.append({"id": number, "file_name": file_name, "width": SIDE, "height": SIDE})
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


@dataclass(frozen=True)
class Project:
    """A folder with drawn pictures, their labels and a recipe."""

    folder: Path
    settings: dict[str, Any]

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    def write(self, **changes: Any) -> Path:
        """Writes the recipe with other top-level settings; None leaves a setting out."""
        content = {key: value for key, value in {**self.settings, **changes}.items() if value is not None}
        self.recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
        return self.recipe

    def labels(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))

    def write_labels(self, name: str, content: dict[str, Any]) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def draw_project(folder: Path, small_weights: Path) -> Project:
    """Six pictures to learn from, five to measure on, and a recipe of a few steps with the small model."""
    draw_coco(folder, "learn", 6, seed=1)
    draw_coco(folder, "test", 5, seed=2)
    settings = {
        "name": "discs",
        "model": str(small_weights),
        "learn": {"annotations": "learn.json", "images": "images"},
        "test": {"annotations": "test.json", "images": "images"},
        "phrases": {"disc": "red disc"},
        "absent_phrases": ["green star"],
        "shots": 4,
        "plan": {"name": "lora", "rank": 2},
        "train": {"steps": 4, "images": 2, "phrases": 2, "views": 3, "checkpoint_every": 3, "warmup": 2},
        "negatives": {"mine": True, "phrases": ["heart", "star"]},
        "guard": {"scenes": 1, "replay": 2, "max_cgf1_loss": 1, "max_refusal_loss": 1},
        "score_threshold": 0.2,
    }
    made = Project(folder, settings)
    made.write()
    return made


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, small_weights: Path) -> Project:
    """A project of drawn pictures that no test changes."""
    return draw_project(tmp_path_factory.mktemp("pristine"), small_weights)


@pytest.fixture(scope="module")
def quick_jobs() -> Iterator[None]:
    """Jobs that draw little and try few steps, for tests of anything else: the rest of a very small job is quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.report.MAX_PAIRS", 1)
        patch.setattr("workbench.report.MAX_ROWS", 1)
        patch.setattr("workbench.costs._TRIAL_SECONDS", 0.0)
        yield


@pytest.fixture
def project(tmp_path: Path, small_weights: Path) -> Project:
    """A project of drawn pictures that a test may change."""
    return draw_project(tmp_path / "project", small_weights)


@pytest.fixture(scope="session")
def drawn(pristine: Project) -> ExampleSet:
    """The six pictures to learn from."""
    learn = ExampleSet.from_coco(pristine.folder / "learn.json", pristine.folder / "images")
    return learn.with_absent(["green star"])


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """Runs `workbench` with these arguments."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})

    return run


@pytest.fixture
def succeed(invoke: Callable[..., Result]) -> Callable[..., str]:
    """Runs a command that must succeed; gives what it printed."""

    def run(*arguments: object) -> str:
        result = invoke(*arguments)
        assert result.exit_code == 0, (result.stdout, result.stderr, result.exception)
        return result.stdout

    return run


@pytest.fixture
def fail(invoke: Callable[..., Result]) -> Callable[..., str]:
    """Runs a command that must refuse; gives the message on standard error, without traceback or other output."""

    def run(*arguments: object) -> str:
        result = invoke(*arguments)
        assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
        assert "Traceback" not in result.stderr and "Found" not in result.stdout
        return result.stderr

    return run
