"""Concept, Example and ExampleSet: what is refused and in which words, which pairs count, how few-shot splits fall."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from workbench.examples import Concept, Example, ExampleSet, boxes_of_masks

WIDTH, HEIGHT = 40, 30


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    area = np.zeros((HEIGHT, WIDTH), bool)
    area[y0:y1, x0:x1] = True
    return area


def picture() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def example(image_id: str, *positive: str, absent: tuple[str, ...] = ()) -> Example:
    concepts = [Concept(phrase, masks=mask(2, 3, 8, 9)[None]) for phrase in positive]
    concepts += [Concept(phrase, "absent") for phrase in absent]
    return Example(image_id, picture(), WIDTH, HEIGHT, tuple(concepts))


def test_boxes_come_from_masks_with_exclusive_ends():
    found = Concept("star", masks=np.stack([mask(20, 3, 60, 9), mask(0, 0, 1, 1)]))
    assert found.boxes_xyxy_px.tolist() == [[20, 3, 40, 9], [0, 0, 1, 1]]
    assert found.boxes_xyxy_px.dtype == np.float32
    assert boxes_of_masks(np.zeros((1, 4, 4), bool)).tolist() == [[0, 0, 0, 0]]


def test_masks_of_zeros_and_ones_are_taken_as_bool_and_others_are_not():
    assert Concept("star", masks=mask(0, 0, 4, 4)[None].astype(np.uint8)).masks.dtype == bool
    with pytest.raises(ValueError, match=r"uint8 with values 0\.\.255.*masks > 0"):
        Concept("star", masks=mask(0, 0, 4, 4)[None].astype(np.uint8) * 255)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phrase": "  "}, "expected a text"),
        ({"phrase": "star"}, "without any mask or box"),
        ({"phrase": "star", "status": "maybe"}, "expected one of positive, absent, unknown"),
        ({"phrase": "star", "status": "absent", "masks": mask(0, 0, 4, 4)[None]}, "'absent' but has 1 labelled"),
        ({"phrase": "star", "status": "unknown", "boxes_xyxy_px": [[0, 0, 4, 4]]}, "'unknown' but has 1 labelled"),
        ({"phrase": "star", "masks": mask(0, 0, 4, 4)}, r"expected \(N,H,W\)"),
        ({"phrase": "star", "masks": np.zeros((1, 5, 5), bool)}, "mask 0 has no pixel"),
        ({"phrase": "star", "boxes_xyxy_px": [[0, 0, 4, 4], [5, 5, 5, 9]]}, r"box 1 is \[5.0, 5.0, 5.0, 9.0\]"),
        ({"phrase": "star", "boxes_xyxy_px": [[0, 0, np.nan, 4]]}, "has no area"),
        ({"phrase": "star", "boxes_xyxy_px": [[0, 0, 4]]}, r"expected \(N,4\)"),
        ({"phrase": "star", "masks": mask(0, 0, 4, 4)[None], "boxes_xyxy_px": [[0, 0, 4, 4]] * 2}, "1 masks but 2 box"),
    ],
)
def test_a_concept_that_contradicts_itself_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Concept(**arguments)


def test_labels_that_do_not_fit_the_picture_are_refused():
    with pytest.raises(ValueError, match=r"masks are \(10, 10\).*expected \(30, 40\)"):
        Example("a", picture(), WIDTH, HEIGHT, (Concept("star", masks=np.ones((1, 10, 10), bool)),))
    with pytest.raises(ValueError, match="leaves the picture; expected 0..40 by 0..30"):
        Example("a", picture(), WIDTH, HEIGHT, (Concept("star", boxes_xyxy_px=[[0, 0, 40, 31]]),))
    with pytest.raises(ValueError, match="leaves the picture"):
        Example("a", picture(), WIDTH, HEIGHT, (Concept("star", boxes_xyxy_px=[[-1, 0, 4, 4]]),))
    whole = Example("a", picture(), WIDTH, HEIGHT, (Concept("star", boxes_xyxy_px=[[0, 0, 40, 30]]),))
    assert whole.concepts[0].masks.shape == (0, HEIGHT, WIDTH)


def test_a_phrase_twice_and_a_picture_twice_are_refused():
    with pytest.raises(ValueError, match="'Red  Star' is given twice|'Red Star' is given twice"):
        example("a", "red star", "Red  Star")
    with pytest.raises(ValueError, match="image_id 'a' occurs twice"):
        ExampleSet("demo", (example("a", "star"), example("a", "star")))


def test_unreadable_and_unfit_pictures_name_the_file(tmp_path):
    missing, broken, cut = tmp_path / "gone.png", tmp_path / "broken.png", tmp_path / "cut.jpg"
    broken.write_bytes(b"no picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(ValueError, match="gone.png does not exist"):
        Example("a", missing, 4, 4)
    with pytest.raises(ValueError, match="broken.png cannot be read"):
        Example("a", broken, 4, 4)
    header_is_fine = Example("a", cut, 90, 90)
    with pytest.raises(ValueError, match="cut.jpg cannot be read"):
        header_is_fine.load_image()
    with pytest.raises(ValueError, match=r"expected a uint8 array \(H,W,3\)"):
        Example("a", np.zeros((HEIGHT, WIDTH), np.uint8), WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="stated size 30x40"):
        Example("a", picture(), HEIGHT, WIDTH)


def test_files_are_read_as_shown(tmp_path):
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[:5, :5] = 255  # top left as stored; orientation 6 shows it top right
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    turned = Example.from_image(tmp_path / "turned.png")
    assert (turned.image_id, turned.width, turned.height) == ("turned.png", HEIGHT, WIDTH)
    shown = turned.load_image()
    assert shown.shape == (WIDTH, HEIGHT, 3)
    assert shown[0, -1].tolist() == [255] * 3 and shown[0, 0].tolist() == [0] * 3
    with pytest.raises(ValueError, match="sides are swapped.*EXIF"):
        Example("a", tmp_path / "turned.png", WIDTH, HEIGHT)


def test_deep_pictures_are_refused_rather_than_washed_out(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "scan.png")
    with pytest.raises(ValueError, match="scan.png has pixel type I;16.*8-bit"):
        Example.from_image(tmp_path / "scan.png").load_image()


@pytest.mark.parametrize("exhaustive", [True, False])
def test_phrases_not_mentioned_are_absent_only_in_exhaustive_sets(exhaustive):
    data = ExampleSet("demo", (example("a", "star"), example("b", "ring", absent=("owl",))), exhaustive=exhaustive)
    found = [data[0].concept("ring"), data[1].concept("STAR")]
    assert [concept and concept.status for concept in found] == (["absent"] * 2 if exhaustive else [None] * 2)
    assert data[0].concept("owl") is None  # positive nowhere, so nobody asked
    known = [(pair.image_id, concept.phrase) for pair, concept in data.pairs()]
    assert (("a", "ring") in known) is exhaustive
    assert ("b", "owl") in known


def test_one_spelling_per_phrase():
    data = ExampleSet("demo", (example("a", "Red star"), example("b", "red  star")))
    assert data.phrases == ("Red star",)
    assert data[1].concepts[0].phrase == "Red star"


def test_with_absent_adds_and_refuses():
    data = ExampleSet("demo", (example("a", "star"), example("b", "ring")))
    more = data.with_absent(["owl", "fox"])
    assert [pair.concept("owl").status for pair in more] == ["absent", "absent"]
    assert data[0].concept("owl") is None
    with pytest.raises(ValueError, match="'star' was stated to be absent but is labelled in image 'a'"):
        data.with_absent(["star"])
    told = data.with_absent(["Star"], image_ids=["b"])
    assert told[1].concept("star").status == "absent"
    assert told[0].concept("star").status == "positive"
    with pytest.raises(ValueError, match="labelled in image 'a'"):
        data.with_absent(["star"], image_ids=["a"])
    with pytest.raises(KeyError, match="no image_id 'z'"):
        data.with_absent(["owl"], image_ids=["z"])


def test_with_absent_leaves_unknown_alone_unless_told():
    unknown = Example("a", picture(), WIDTH, HEIGHT, (Concept("crowd", "unknown"),))
    data = ExampleSet("demo", (unknown, example("b")))
    assert [pair.concept("crowd").status for pair in data.with_absent(["crowd"])] == ["unknown", "absent"]
    assert data.with_absent(["crowd"], image_ids=["a"])[0].concept("crowd").status == "absent"


def many(counts: dict[str, int], blank: int = 0) -> ExampleSet:
    pictures = [example(f"{phrase}{number}", phrase) for phrase, count in counts.items() for number in range(count)]
    pictures += [example(f"blank{number}") for number in range(blank)]
    return ExampleSet("many", tuple(pictures), exhaustive=True)


def positives(data: ExampleSet) -> set[str]:
    return {concept.phrase for _, concept in data.pairs() if concept.status == "positive"}


@pytest.mark.parametrize("seed", range(8))
def test_few_shot_holds_every_phrase_and_is_seeded(seed):
    data = many({"common": 20, "rare": 2, "single": 1})
    learn, rest = data.few_shot(4, seed)
    assert len(learn) == 4 and len(rest) == 19
    assert positives(learn) == {"common", "rare", "single"}
    assert {pair.image_id for pair in learn} | {pair.image_id for pair in rest} == {pair.image_id for pair in data}
    again = data.few_shot(4, seed)[0]
    assert [pair.image_id for pair in again] == [pair.image_id for pair in learn]
    assert all(len(pair.concepts) == 3 for pair in learn)  # the phrases of the whole set are still asked for


def test_few_shot_differs_between_seeds_and_keeps_shares():
    data = many({"common": 30, "other": 10}, blank=20)
    splits = [frozenset(pair.image_id for pair in data.few_shot(12, seed)[0]) for seed in range(5)]
    assert len(set(splits)) > 1
    for chosen in splits:
        by_kind = {kind: sum(image_id.startswith(kind) for image_id in chosen) for kind in ("common", "other", "blank")}
        assert by_kind == {"common": 6, "other": 2, "blank": 4}


def test_few_shot_finds_the_only_cover():
    data = ExampleSet(
        "tight",
        (
            example("trap", "x", "a", "b", "c"),  # holds most phrases, but no single picture has the other two
            example("small", "x", "d"),
            example("large", "a", "b", "c", "e"),
            example("d", "d"),
            example("e", "e"),
        ),
    )
    for seed in range(6):
        learn, _ = data.few_shot(2, seed)
        assert [pair.image_id for pair in learn] == ["small", "large"]


def test_few_shot_takes_the_most_phrases_when_not_all_fit():
    learn, _ = many({"a": 3, "b": 3, "c": 3}).few_shot(2, seed=1)
    assert len(positives(learn)) == 2


def test_few_shot_says_what_to_do():
    with pytest.raises(ValueError, match=r"5 shots asked from 2 pictures.*fewer shots"):
        many({"a": 2}).few_shot(5, 0)
    with pytest.raises(ValueError, match="expected 1..2"):
        many({"a": 2}).few_shot(0, 0)
    with pytest.raises(ValueError, match="no phrase is positive.*Label some objects"):
        ExampleSet("none", (example("a", absent=("star",)), example("b"))).few_shot(1, 0)


def test_k_fold_judges_every_picture_once_on_others():
    data = many({"common": 9, "rare": 3}, blank=2)
    folds = list(data.k_fold(3, seed=4))
    judged = [pair.image_id for _, judge in folds for pair in judge]
    assert sorted(judged) == sorted(pair.image_id for pair in data)
    for learn, judge in folds:
        assert {pair.image_id for pair in learn} == set(judged) - {pair.image_id for pair in judge}
        assert sum(pair.image_id.startswith("rare") for pair in judge) == 1
        assert sum(pair.image_id.startswith("common") for pair in judge) == 3
        assert all(len(pair.concepts) == 2 for pair in judge)  # the phrases of the whole set are still asked for
    assert [judge.name for _, judge in folds] == [f"many (judge {number} of 3, seed 4)" for number in (1, 2, 3)]
    assert len(list(data.k_fold(len(data), seed=0))) == 14
    with pytest.raises(ValueError, match="k is 15 for 14 pictures"):
        next(data.k_fold(15, seed=0))


def test_summary_counts():
    boxed = Example("c", picture(), WIDTH, HEIGHT, (Concept("star", boxes_xyxy_px=[[0, 0, 4, 4], [5, 5, 9, 9]]),))
    counts = ExampleSet("demo", (example("a", "star"), example("b", "ring", absent=("owl",)), boxed)).summary()
    assert (counts.images, counts.positive, counts.absent, counts.unknown) == (3, 3, 1, 5)
    assert (counts.objects, counts.box_only) == (4, 2)
    star = next(count for count in counts.phrases if count.phrase == "star")
    assert (star.positive, star.absent, star.unknown, star.objects) == (2, 0, 1, 3)
    assert "3 pictures, 3 positive and 1 absent pairs" in str(counts)


def test_a_set_is_a_sequence():
    data = many({"a": 3})
    assert [pair.image_id for pair in data] == ["a0", "a1", "a2"]
    assert isinstance(data[:2], ExampleSet) and len(data[:2]) == 2
    assert [pair.image_id for pair in data.subset(["a2", "a0"])] == ["a2", "a0"]
    assert data.example("a1") is data[1]
    with pytest.raises(KeyError, match="no image_id 'b'"):
        data.subset(["b"])
