"""The forgetting guard: what it replays are the model's own answers, and what was lost is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam3.checkpoint import load_sam3
from sam3.predictor import ImagePredictor
from workbench.adapters import Plan, add_adapter
from workbench.domains import shapes
from workbench.examples import Concept
from workbench.finetune import FinetuneConfig, finetune
from workbench.guard import GuardConfig, Retention, measure_retention, replay_set, retention_set, what_was_right


@pytest.fixture
def model():
    return load_sam3("tiny")


def test_an_adapter_that_changes_nothing_loses_nothing(model):
    adapter = add_adapter(model, Plan("decoder", rank=2), ("disc",))
    found = measure_retention(
        adapter, retention_set(2), GuardConfig(max_cgf1_loss=0, max_refusal_loss=0), progress=False
    )
    assert found.cgf1_before == found.cgf1_after and found.refusal_before == found.refusal_after
    assert found.pairs == 16 and found.complaints == () and found.to_dict()["complaints"] == []


def test_a_model_that_says_yes_to_everything_is_complained_about(model):
    adapter = add_adapter(model, Plan("presence", rank=2), ("disc",))
    last = model.detector.decoder.presence_head.layers[-1]
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.fill_(3.0)
        bias = last.get_base_layer().bias
        kept, bias[:] = bias.clone(), 50.0
    data, config = retention_set(2), GuardConfig()
    found = measure_retention(adapter, data, config, progress=False)
    with torch.no_grad():
        bias.copy_(kept)
    assert found.refusal_after <= found.refusal_before


def test_limits_are_compared_with_the_loss():
    kept = Retention("scenes", 8, 0.5, 0.46, 0.9, 0.86, 0.05, 0.05)
    lost = Retention("scenes", 8, 0.5, 0.44, 0.9, 0.1, 0.05, 0.05)
    better = Retention("scenes", 8, 0.4, 0.9, 0.5, 1.0, 0.0, 0.0)
    assert kept.complaints == better.complaints == ()
    assert [text.split(" on ")[0] for text in lost.complaints] == ["cgF1", "refusal"]
    assert "refusal on scenes fell from 0.900 to 0.100, more than the 0.050 allowed" in lost.complaints


def test_retention_and_replay_scenes_are_seeded_and_different():
    one, again = retention_set(3), retention_set(3)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, again, strict=True))
    assert {c.status for e in one for c in e.concepts} == {"positive", "absent"}


def test_replayed_labels_are_right_answers_of_the_model(model):
    replayed = replay_set(model, 4, progress=False)
    scenes = shapes.held_out_set(4, 770_002)
    predictor, statuses = ImagePredictor(model), set()
    for example, scene in zip(replayed, scenes, strict=True):
        assert np.array_equal(example.image, scene.image)
        predictor.set_image(scene.image)
        for concept, truth in zip(example.concepts, scene.concepts, strict=True):
            found = predictor.predict(concept.phrase).masks
            statuses.add((truth.status, concept.status))
            assert concept.phrase == truth.phrase and concept.num_objects <= len(found)
            own = {mask.tobytes() for mask in found}
            assert all(mask.tobytes() in own for mask in concept.masks)
            if concept.status == "absent":
                assert truth.status == "absent" and not len(found)
    assert statuses >= {("positive", "positive"), ("absent", "absent")}
    assert not statuses & {("positive", "absent"), ("absent", "positive")}


def test_what_was_wrong_is_unknown():
    cells = np.eye(4, dtype=bool).reshape(4, 2, 2)
    truth = Concept("disc", "positive", cells[:2])
    assert what_was_right(truth, cells[:2]).num_objects == 2
    half = what_was_right(truth, cells[1:3])
    assert half.status == "positive" and np.array_equal(half.masks, cells[1:2])
    for wrong in (cells[2:3], cells[1:], cells[:0], np.zeros((1, 2, 2), bool)):
        assert what_was_right(truth, wrong).status == "unknown"
    absent = Concept("bar", "absent")
    assert what_was_right(absent, cells[:0]).status == "absent"
    assert what_was_right(absent, np.zeros((1, 2, 2), bool)).status == "absent"
    assert what_was_right(absent, cells[:1]).status == "unknown"


def test_replayed_pictures_are_part_of_every_step(model, drawn, tmp_path):
    adapter = add_adapter(model, Plan("decoder", rank=2), ("disc", "bar"))
    replayed = replay_set(model, 3, progress=False)
    lines: list[dict] = []
    config = FinetuneConfig(steps=2, images=2, phrases=2, views=2, replay_images=2)
    finetune(model, adapter, drawn, tmp_path / "with", config, replay=replayed, progress=False, on_step=lines.append)
    plain: list[dict] = []
    finetune(model, adapter, drawn, tmp_path / "without", config, progress=False, on_step=plain.append)
    asked = [[line["present"] + line["absent"] for line in log] for log in (lines, plain)]
    assert all(more > fewer for more, fewer in zip(*asked, strict=True))
    with pytest.raises(ValueError, match="other settings, pictures or weights"):
        finetune(model, adapter, drawn, tmp_path / "with", config, progress=False)


def test_bad_limits_are_refused():
    with pytest.raises(ValueError, match="scenes=-1; expected a number of scenes"):
        GuardConfig(scenes=-1)
    with pytest.raises(ValueError, match="max_refusal_loss=5; expected a fraction"):
        GuardConfig(max_refusal_loss=5)
