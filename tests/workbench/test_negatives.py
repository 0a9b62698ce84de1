"""The negatives lab: false alarms are found, what lies on labelled objects is set aside, the rest is put in order."""

from __future__ import annotations

import numpy as np
import pytest

from sam3.checkpoint import load_sam3
from sam3.predictor import ImagePredictor, Prediction
from workbench.domains.phrases import vocabulary
from workbench.examples import Concept, Example, ExampleSet, phrase_key
from workbench.negatives import MinedNegatives, NegativesConfig, judge, mine, with_negatives


def square(x: int, y: int, side: int = 10) -> np.ndarray:
    mask = np.zeros((40, 40), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def answered(*found: tuple[float, np.ndarray]) -> Prediction:
    masks = np.stack([mask for _, mask in found])
    boxes = np.array([[0, 0, 40, 40]] * len(found), np.float32)
    return Prediction("?", boxes, masks, np.array([score for score, _ in found], np.float32), 0.9, (40, 40))


@pytest.fixture
def examples() -> ExampleSet:
    picture = np.zeros((40, 40, 3), np.uint8)
    coins = np.array([[20, 20, 30, 30]], np.float32)
    return ExampleSet(
        "drawn",
        (
            Example(
                "one", picture, 40, 40, (Concept("coin", "positive", square(0, 0)[None]), Concept("lid", "absent"))
            ),
            Example(
                "two", picture, 40, 40, (Concept("coin", "positive", boxes_xyxy_px=coins), Concept("cup", "absent"))
            ),
        ),
    )


def test_what_lies_on_a_labelled_object_is_set_aside(examples):
    one, two = examples
    alarm = judge(one, "star", answered((0.9, square(25, 25)), (0.4, square(8, 8))), False, 0.3)
    assert (alarm.verdict, alarm.score, alarm.overlap) == ("false alarm", pytest.approx(0.9), pytest.approx(0.04))
    synonym = judge(one, "disc", answered((0.9, square(25, 25)), (0.4, square(3, 3))), False, 0.3)
    assert (synonym.verdict, synonym.overlap) == ("overlaps an object", pytest.approx(0.49))
    on_box = judge(two, "disc", answered((0.5, square(22, 22))), False, 0.3)
    assert on_box.verdict == "overlaps an object" and on_box.overlap == pytest.approx(0.64)
    stated = judge(one, "lid", answered((0.9, square(0, 0))), True, 0.3)
    assert (stated.verdict, stated.overlap) == ("false alarm", 1.0)


def test_mining_asks_every_picture_for_what_its_labels_leave_open(drawn):
    model, phrases = load_sam3("tiny"), ["disc", "Red Moon", "ring", "heart"]
    mined = mine(model, drawn, phrases, score_threshold=0.1, progress=False)
    predictor = ImagePredictor(model)
    expected, num_asked = {}, 0
    for example in drawn:
        predictor.set_image(example.load_image())
        known = {phrase_key(c.phrase): c.status for c in example.concepts}
        for phrase in {phrase_key(p): p for p in [*phrases, *(c.phrase for c in example.concepts)]}.values():
            if known.get(phrase_key(phrase), "absent") == "absent":
                num_asked += 1
                answer = predictor.predict(phrase, score_threshold=0.1)
                if len(answer):
                    expected[example.image_id, phrase] = float(answer.scores[0])
    found = {(c.image_id, c.phrase): c.score for c in mined.candidates}
    assert found == pytest.approx(expected, rel=1e-4) and len(found) > 3
    assert mined.num_asked == num_asked
    scores = [c.score for c in mined.candidates]
    assert scores == sorted(scores, reverse=True)
    assert len(mined.false_alarms) + len(mined.set_aside) == len(found)
    assert f"{len(mined.false_alarms)} false alarms" in str(mined)
    assert len(mined.to_dict()["candidates"]) == len(found)


def test_the_rendered_world_gives_the_phrases_when_none_are_named(drawn):
    mined = mine(load_sam3("tiny"), drawn[:1], progress=False)
    known = {phrase_key(concept.phrase) for concept in drawn[0].concepts}
    stated = sum(concept.status == "absent" for concept in drawn[0].concepts)
    assert mined.num_asked == len(set(vocabulary()) - known) + stated


def test_negatives_come_in_the_order_of_what_they_teach(examples):
    stated = examples.with_absent(["zebra", "anchor"])
    mined = MinedNegatives(
        tuple(
            judge(stated[0], phrase, answered((score, square(*place))), False, 0.3)
            for phrase, score, place in (("star", 0.9, (25, 25)), ("disc", 0.8, (0, 0)), ("heart", 0.5, (25, 0)))
        ),
        9,
    )

    def absent(data: ExampleSet) -> list[list[str]]:
        return [[c.phrase for c in example.concepts if c.status == "absent"] for example in data]

    assert absent(with_negatives(stated, mined, 3)) == [["star", "heart", "lid"], ["cup", "zebra", "anchor"]]
    assert absent(with_negatives(stated, mined, 1)) == [["star"], ["cup"]]
    assert absent(with_negatives(stated, None, 2)) == [["lid", "zebra"], ["cup", "zebra"]]
    assert absent(with_negatives(stated, mined, 0)) == [[], []]
    assert [e.concept("coin").status for e in with_negatives(stated, mined, 0)] == ["positive"] * 2
    with pytest.raises(ValueError, match="per_image=-1"):
        NegativesConfig(per_image=-1)
    assert MinedNegatives.from_dict(mined.to_dict()) == mined


def test_objects_of_other_pictures_come_before_phrases_that_are_nowhere(examples):
    one = Example(
        "three", np.zeros((40, 40, 3), np.uint8), 40, 40, (Concept("zebra", "absent"), Concept("coin", "absent"))
    )
    data = ExampleSet("more", (*examples, one))
    kept = with_negatives(data, None, 1)[2].concepts
    assert [(c.phrase, c.status) for c in kept] == [("coin", "absent")]
