"""What all readers share: phrases, the status of every phrase, paths that stay inside their folder."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from workbench.formats import reading
from workbench.formats.reading import (
    Finding,
    PhraseTable,
    PictureLabels,
    large_set_finding,
    path_inside,
    picture_of_bytes,
    pictures_in,
    says_nothing,
)

FULL = np.ones((8, 10), bool)


def labels_of(*names: str, **changes: str | None) -> tuple[PictureLabels, list[Finding]]:
    findings: list[Finding] = []
    table = PhraseTable({name: name for name in names}, changes, "labels")
    return PictureLabels("a.png", 10, 8, table, findings), findings


def statuses(labels: PictureLabels) -> dict[str, str]:
    return {concept.phrase: concept.status for concept in labels.concepts()}


def test_only_what_was_stated_is_absent():
    labels, _ = labels_of("star", "ring", "owl")
    labels.add_mask("star", FULL, "1")
    labels.mark_absent("star", "ring")
    assert statuses(labels) == {"star": "positive", "ring": "absent"}
    labels.mark_unknown("star", "ring")
    assert statuses(labels) == {"star": "unknown", "ring": "unknown"}


@pytest.mark.parametrize("spoil", ["crowd", "empty mask", "tiny box", "box outside"])
def test_nothing_unusable_makes_a_phrase_absent(spoil):
    labels, findings = labels_of("star")
    labels.mark_absent("star")
    if spoil == "crowd":
        labels.add_unusable("star")
    elif spoil == "empty mask":
        labels.add_mask("star", ~FULL, "1")
    else:
        labels.add_box("star", (2, 2, 2.5, 2.5) if spoil == "tiny box" else (20, 2, 25, 5), "1")
    assert statuses(labels) == {"star": "unknown"}
    assert [finding.kind for finding in findings] == ([] if spoil == "crowd" else [spoil])
    labels.add_box("star", (1, 1, 4, 4), "2")
    assert statuses(labels) == {"star": "positive"}


def test_joined_names_are_absent_only_together():
    labels, _ = labels_of("red car", "blue car", **{"red car": "car", "blue car": "car"})
    labels.mark_absent("red car")
    assert statuses(labels) == {}
    labels.mark_absent("blue car")
    assert statuses(labels) == {"car": "absent"}


def test_boxes_are_clipped_and_named():
    labels, findings = labels_of("star")
    labels.add_box("star", (-3, 1, 4, 9.5), "line 4")
    assert labels.concepts()[0].boxes_xyxy_px.tolist() == [[0, 1, 4, 8]]
    assert str(findings[0]).startswith("line 4: a box of 'star' left the 10x8 picture and was clipped. Check")


def test_names_that_are_left_out_collect_nothing():
    labels, findings = labels_of("star", "sky", sky=None)
    labels.add_mask("sky", ~FULL, "1")
    labels.add_box("sky", (90, 90, 95, 95), "1")
    labels.add_unusable("sky")
    labels.mark_unknown("sky")
    assert statuses(labels) == {} and findings == []


def test_spellings_of_one_phrase_are_joined_and_named():
    table = PhraseTable({1: "Red  Star", 2: "red star", 3: "owl"}, {"owl": "bird"}, "labels.json")
    assert table.phrases == ("Red  Star", "bird")
    assert [str(twin) for twin in table.twins()] == [
        "labels.json: the names 'Red  Star', 'red star' are one phrase to the model and were joined. Use one spelling "
        "in the labels."
    ]
    joined_on_purpose = PhraseTable({1: "car", 2: "truck"}, {"car": "vehicle", "truck": "vehicle"}, "labels.json")
    assert joined_on_purpose.twins() == ()


@pytest.mark.parametrize("phrase", ["0", "12", "class_3", "cls7", "Class 4", "category-2", "label", "x", "id 5"])
def test_class_ids_say_nothing(phrase):
    assert says_nothing(phrase)


@pytest.mark.parametrize("phrase", ["coin", "type 2 collagen", "classroom", "labels on a jar", "U-turn", "車両"])
def test_words_say_something(phrase):
    assert not says_nothing(phrase)


def test_no_entry_leads_outside_its_folder(tmp_path):
    inside, outside = tmp_path / "data", tmp_path / "secret.png"
    inside.mkdir()
    Image.new("RGB", (4, 4)).save(outside)
    Image.new("RGB", (4, 4)).save(inside / "a.png")
    assert path_inside(inside, "a.png", "x") == inside / "a.png"
    (inside / "link.png").symlink_to(outside)
    for name in ("../secret.png", str(outside), "link.png", "sub/../../secret.png"):
        with pytest.raises(ValueError, match=r"images\[0\]: .* leads outside the folder"):
            path_inside(inside, name, "images[0]")
    with pytest.raises(ValueError, match="leads outside"):
        pictures_in(inside)


def test_folders_without_pictures_are_named(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        pictures_in(tmp_path / "gone")
    with pytest.raises(ValueError, match="holds no picture"):
        pictures_in(tmp_path)
    with pytest.raises(ValueError, match="row 3: the picture cannot be read"):
        picture_of_bytes(b"no picture", "row 3")


def test_large_sets_are_named(monkeypatch):
    from workbench.examples import Concept, Example, ExampleSet

    example = Example("a", np.zeros((8, 10, 3), np.uint8), 10, 8, (Concept("star", masks=FULL[None]),))
    data = ExampleSet("demo", (example,))
    assert large_set_finding(data) is None
    monkeypatch.setattr(reading, "LARGE_SET_GIB", 1e-9)
    assert "Take fewer pictures" in str(large_set_finding(data))
