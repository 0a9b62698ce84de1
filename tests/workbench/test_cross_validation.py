"""cross_validate() on a finished job: every picture judged once by a model that did not see it; thresholds kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sam3.checkpoint import load_sam3
from workbench.adapt import run_recipe
from workbench.adapters import load_adapter
from workbench.calibrate import Calibration, calibrated
from workbench.calibrated_predictor import CalibratedPredictor, predictor_for
from workbench.cross_validation import cross_validate
from workbench.evaluate import Evaluation, evaluate
from workbench.examples import ExampleSet
from workbench.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("quick_jobs")


@pytest.fixture(scope="module")
def validated(pristine, tmp_path_factory):
    out = tmp_path_factory.mktemp("validated") / "out"
    run_recipe(load_recipe(pristine.recipe, ["guard.replay=0"]), out, progress=False)
    before = {name: (out / "adapter" / name).read_bytes() for name in ("adapter_model.safetensors",)}
    return out, cross_validate(out, 2, progress=False), before


def test_every_picture_is_judged_once_by_a_model_that_did_not_see_it(validated):
    out, found, _ = validated
    parts = [Evaluation.load(out / "folds" / f"{number}_of_2" / "judge.json") for number in (1, 2)]
    judged = [{record.image_id for record in part.records} for part in parts]
    assert judged[0].isdisjoint(judged[1]) and len(judged[0] | judged[1]) == 4
    for number, ids in enumerate(judged, start=1):
        description = (out / "folds" / f"{number}_of_2" / "adapter" / "manifest.json").read_text("utf-8")
        assert json.loads(description)["phrases"]
        state = (out / "folds" / f"{number}_of_2" / "state.pt").read_bytes()
        assert not any(name.encode() in state for name in ids)
    assert len(found.pooled.records) == sum(len(part.records) for part in parts)


def test_the_adapter_carries_its_thresholds_and_keeps_its_weights(validated, pristine):
    out, found, before = validated
    assert {name: (out / "adapter" / name).read_bytes() for name in before} == before
    model = load_sam3(pristine.settings["model"])
    adapter = load_adapter(model, out / "adapter")
    assert Calibration.from_dict(adapter.facts["calibration"]) == found.calibration
    assert "Working thresholds" in (out / "report.html").read_text("utf-8")
    predictor = predictor_for(adapter)
    assert isinstance(predictor, CalibratedPredictor)
    test = ExampleSet.from_coco(pristine.folder / "test.json", pristine.folder / "images", phrases={"disc": "red disc"})
    asked = evaluate(predictor, test, model_name="calibrated", progress=False)
    plain = evaluate(model, test, model_name="recorded", progress=False)
    mended = {(r.image_id, r.phrase): r for r in calibrated(plain.records, found.calibration)}
    for record in asked.records:
        other = mended[record.image_id, record.phrase]
        assert record.presence_score == pytest.approx(other.presence_score, abs=1e-5)
        shared = [s for s in other.scores if s > 0.0501][: len(record.scores)]
        assert np.allclose(record.scores[: len(shared)], shared, atol=1e-5)


def test_a_second_call_computes_nothing_and_a_stopped_one_goes_on(validated):
    out, found, _ = validated
    times = {path: path.stat().st_mtime_ns for path in out.glob("folds/*/judge.json")}
    assert cross_validate(out, 2, progress=False).calibration == found.calibration
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_unfinished_jobs_and_too_many_folds_are_refused(validated, tmp_path):
    with pytest.raises(ValueError, match="holds no finished job"):
        cross_validate(tmp_path, 2)
    copy = Path(shutil.copytree(validated[0], tmp_path / "copy"))
    with pytest.raises(ValueError, match="5"):
        cross_validate(copy, 5, progress=False)
