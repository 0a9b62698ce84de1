"""`workbench import` and `workbench export`: what they write and say, from form to form, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.examples import ExampleSet
from workbench.formats.sources import read_labels


@pytest.fixture
def labels(pristine, tmp_path: Path) -> Path:
    """A folder with one COCO file of six drawn pictures."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "learn.json").write_bytes((pristine.folder / "learn.json").read_bytes())
    (tmp_path / "source" / "images").symlink_to(pristine.folder / "images")
    return tmp_path / "source" / "learn.json"


def masks(examples: ExampleSet) -> list[bytes]:
    return [concept.masks.tobytes() for _, concept in examples.pairs()]


def test_import_writes_the_own_form_and_says_what_is_in_it(labels, tmp_path, succeed):
    text = succeed("import", labels, "--out", tmp_path / "own", "--phrases", "disc=cls0", "--limit", 5)
    assert text.startswith("Read as coco.") and "learn: 5 pictures" in text
    assert "[class-id phrase]" in text and f"Written to {tmp_path / 'own' / 'labels.json'}" in text
    read = ExampleSet.from_coco(tmp_path / "own" / "labels.json", tmp_path / "own" / "images")
    assert read.phrases == ("cls0", "bar") and len(read) == 5
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["images", "labels.json"]


def test_import_compares_the_splits(labels, tmp_path, succeed):
    (labels.parent / "test.json").write_bytes(labels.read_bytes())
    text = succeed("import", labels.parent, "--out", tmp_path / "own")
    assert "12 pictures" in text and "[near-duplicate] test: " in text
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["images", "learn.json", "test.json"]
    again = read_labels(tmp_path / "own")
    assert [examples.name for examples in again.sets] == ["learn", "test"]


@pytest.mark.parametrize("to", ["coco", "saco", "parquet", "yolo"])
def test_what_is_exported_is_read_again_the_same(labels, tmp_path, to, succeed):
    out = tmp_path / "out"
    assert f"Written to {out}" in succeed("export", labels, "--to", to, "--out", out)
    before, after = read_labels(labels).examples, read_labels(out).examples
    assert masks(after) == masks(before) and after.phrases == before.phrases
    assert [c.status for e in after for c in e.concepts] == [c.status for e in before for c in e.concepts]
    assert "Read as" in succeed("import", out, "--out", tmp_path / "back")


def test_the_card_holds_licence_and_provenance(labels, tmp_path, succeed, fail):
    options = ("--licence", "cc0-1.0", "--provenance", "Drawn by a test.")
    succeed("export", labels, "--to", "parquet", "--out", tmp_path / "discs", *options)
    card = (tmp_path / "discs" / "README.md").read_text("utf-8")
    assert "license: cc0-1.0" in card and "# discs" in card and "Drawn by a test." in card
    assert "coco has no place for a licence" in fail(
        "export", labels, "--to", "coco", "--out", tmp_path / "x", *options
    )


def test_nothing_is_written_when_something_is_wrong(labels, tmp_path, fail):
    own = tmp_path / "own"
    own.mkdir()
    (own / "keep.txt").write_text("mine")
    assert "already holds something; expected a new or empty folder" in fail("import", labels, "--out", own)
    assert "already holds something" in fail("export", labels, "--to", "coco", "--out", own)
    assert [path.name for path in own.iterdir()] == ["keep.txt"]
    content = json.loads(labels.read_text())
    content["annotations"][0]["image_id"] = 99
    labels.write_text(json.dumps(content))
    assert "annotations[0]: image_id is 99" in fail("import", labels, "--out", tmp_path / "new")
    assert "one of coco, yolo, saco, parquet" in fail("export", labels, "--to", "voc", "--out", tmp_path / "new")
    assert "coco takes no --window" in fail("import", labels, "--out", tmp_path / "new", "--window", "lung")
    assert "expected OLD=NEW" in fail("import", labels, "--out", tmp_path / "new", "--phrases", "disc")
    assert not (tmp_path / "new").exists()
