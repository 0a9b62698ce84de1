"""The validation report: planted near-duplicates are found, distinct pictures are not, phrases are looked at."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage as ndi

from workbench.examples import Concept, Example, ExampleSet
from workbench.formats.reading import Finding
from workbench.validation import near_duplicates, validate


def scene(seed: int, width: int = 120, height: int = 90) -> np.ndarray:
    noise = ndi.gaussian_filter(np.random.default_rng(seed).random((height, width, 3)), (6, 6, 0))
    return np.uint8(255 * (noise - noise.min()) / np.ptp(noise))


def altered(pixels: np.ndarray, scale: float = 1.0, quality: int = 60) -> np.ndarray:
    """The picture resized and compressed anew."""
    buffer = io.BytesIO()
    size = [round(side * scale) for side in pixels.shape[1::-1]]
    Image.fromarray(pixels).resize(size).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def set_of(name: str, *pictures: np.ndarray, phrases: tuple[str, ...] = ()) -> ExampleSet:
    concepts = tuple(Concept(phrase, "absent") for phrase in phrases)
    return ExampleSet(
        name, tuple(Example.from_image(one, concepts, f"{name}_{number}") for number, one in enumerate(pictures))
    )


@pytest.mark.parametrize(("scale", "quality"), [(1.0, 60), (0.9, 85), (1.07, 40)])
def test_a_planted_duplicate_is_caught_and_named(scale, quality):
    train = set_of("train", scene(1), scene(2), scene(3))
    test = set_of("test", scene(4), altered(scene(2), scale, quality), scene(5))
    (finding,) = validate((train, test)).of_kind("near-duplicate")
    assert str(finding).startswith("test: test_1: is almost the picture train_1 of train. Remove it")


def test_flat_pictures_are_duplicates_only_when_equal():
    grey = np.full((90, 120, 3), 200, np.uint8)
    assert near_duplicates(set_of("train", grey), set_of("test", grey + np.uint8(1))) == []
    assert len(near_duplicates(set_of("train", grey), set_of("test", grey))) == 1
    assert near_duplicates(set_of("train"), set_of("test", grey)) == []


@pytest.mark.parametrize("name", ["coins", "words", "nuclei"])
def test_the_tiles_of_the_repository_are_distinct_and_their_copies_are_not(repo_root: Path, name):
    folder = repo_root / "data" / name / "images"
    train, test = (sorted(folder.glob(f"{split}_*.png")) for split in ("train", "test"))
    learn = ExampleSet("train", tuple(map(Example.from_image, train)))
    assert near_duplicates(learn, ExampleSet("test", tuple(map(Example.from_image, test)))) == []
    copies = [altered(example.load_image(), 0.95) for example in learn]
    assert len(near_duplicates(learn, set_of("copies", *copies))) == len(copies)


def test_phrases_that_say_nothing_and_twins_are_named():
    train = set_of("train", scene(1), phrases=("class_3", "coin", "berry", "glass"))
    test = set_of("test", scene(2), phrases=("coins", "Coin", "berries", "bus")[0:1] + ("berries", "bus", "Glass"))
    report = validate((train, test))
    assert [finding.problem for finding in report.of_kind("class-id phrase")] == [
        "the phrase 'class_3' looks like the number of a class and says nothing to the model."
    ]
    twins = [finding.problem.split(" differ")[0] for finding in report.of_kind("twin phrases")]
    assert twins == ["the phrases 'coin', 'coins'", "the phrases 'berry', 'berries'", "the phrases 'glass', 'Glass'"]
    assert all(str(finding).count("\n") == 0 for finding in report.findings)


def test_the_report_keeps_the_readers_findings_and_shows_a_few_of_each():
    found = [Finding("box outside", f"entry {number}", "is outside.", "Correct it.") for number in range(9)]
    report = validate(set_of("train", scene(1), phrases=("coin",)), found)
    lines = str(report).splitlines()
    assert lines[0] == "Validation of train (1 pictures): 9 findings." and not report.is_clean
    assert lines[1] == "  [box outside] entry 0: is outside. Correct it." and lines[-1] == "  [box outside] and 4 more"
    assert len(lines) == 7
