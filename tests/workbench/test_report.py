"""The report on real evaluations of a small colour finder: its words, numbers, pictures, and that it stands alone."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from workbench.bootstrap import Delta
from workbench.calibrate import calibrate
from workbench.compare import Comparison, compare
from workbench.evaluate import Evaluation, evaluate
from workbench.examples import Concept, Example, ExampleSet, boxes_of_masks
from workbench.report import headline, write_report
from workbench.report_panels import CalibrationPanel, RetentionPanel, RetentionRow
from workbench.show import worth_seeing

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}
SIZE = 64
HOSTILE = "red <script>alert('x')</script> & \"co\""


@dataclass(frozen=True)
class Found:
    masks: np.ndarray
    boxes_xyxy_px: np.ndarray
    scores: np.ndarray
    presence_score: float


class ColourFinder:
    """Finds the connected regions whose colour lies within `reach` of the colour a phrase names."""

    def __init__(self, reach: float) -> None:
        self.reach = reach

    def set_image(self, image: np.ndarray) -> None:
        self.image = image.astype(float)

    def predict(self, phrases: list[str], *, score_threshold: float | None = None) -> list[Found]:
        return [self._find(phrase) for phrase in phrases]

    def _find(self, phrase: str) -> Found:
        distance = np.linalg.norm(self.image - COLOURS[phrase.split()[0]], axis=-1)
        regions, count = ndimage.label(distance < self.reach)
        masks = np.array([regions == number + 1 for number in range(count)]).reshape(-1, SIZE, SIZE)
        scores = np.array([1 - distance[mask].mean() / (2 * self.reach) for mask in masks])
        return Found(masks, boxes_of_masks(masks), scores, float(scores.max(initial=0.02)))


def scenes(count: int) -> ExampleSet:
    examples = []
    for number in range(count):
        chance = np.random.default_rng([5, number])
        pixels = np.full((SIZE, SIZE, 3), 120, np.uint8)
        concepts = []
        for place, (name, colour) in enumerate(COLOURS.items()):
            phrase = HOSTILE if name == "red" else f"{name} patch"
            if chance.random() < 0.35:
                concepts.append(Concept(phrase, "absent"))
                continue
            mask = np.zeros((SIZE, SIZE), bool)
            mask[4 + 20 * place : 18 + 20 * place, 5 : 20 + int(chance.integers(30))] = True
            pixels[mask] = np.clip(np.array(colour) + chance.normal(0, 12, (mask.sum(), 3)), 0, 255)
            concepts.append(Concept(phrase, masks=mask[None]))
        examples.append(Example(f"scene <{number}>", pixels, SIZE, SIZE, tuple(concepts)))
    return ExampleSet("patches & co", tuple(examples))


@dataclass(frozen=True)
class Case:
    examples: ExampleSet
    before: Evaluation
    after: Evaluation
    comparison: Comparison
    facts: dict[str, str]

    def write(self, folder: Path, **changes) -> str:
        arguments = {**vars(self), "log": None, **changes}
        return write_report(folder, **arguments).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def case() -> Case:
    examples = scenes(12)
    before = evaluate(ColourFinder(150), examples, model_name="tiny", progress=False)
    after = evaluate(ColourFinder(90), examples, model_name="tiny + adapter", progress=False)
    facts = {"plan": "presence", "adapter": "runs/a", "checkpoint": "tiny", "note": "<b>bold</b> & more"}
    return Case(examples, before, after, compare(before, after, num_resamples=300), facts)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Drawing takes most of the time, and only one test is about the number of pictures."""
    monkeypatch.setattr("workbench.report.MAX_PAIRS", 2)


class Reader(HTMLParser):
    """Collects what a browser would show and load, and checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append((values["src"], values["alt"]))
        self.links += [value for name, value in attributes if name in ("src", "href") and not value.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def test_the_report_stands_alone_and_escapes_all_names(case, tmp_path):
    html = case.write(tmp_path)
    page = Reader(html)
    assert page.open == []
    assert "script" not in page.tags and "<b>bold" not in html
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(re.findall(r'id="([^"]+)"', html))
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert HOSTILE in page.text and "<b>bold</b> & more" in page.text and re.search(r"scene <\d+>, F1", page.text)
    for source, alt in page.images:
        assert alt
        kind, data = source.split(";base64,")
        assert Image.open(io.BytesIO(base64.b64decode(data))).width >= 420 and kind.startswith("data:image/")


def test_the_headline_and_the_numbers_are_those_of_the_comparison(case, tmp_path):
    page = Reader(case.write(tmp_path)).text
    cgf1 = case.comparison.metrics["cgF1"]
    assert cgf1.delta > 0.2 and cgf1.is_certain
    expected = (
        f"On 12 pictures with 36 questions, cgF1 went from {100 * cgf1.before:.1f} to {100 * cgf1.after:.1f} "
        f"({100 * cgf1.delta:+.1f}, 95 % interval {100 * cgf1.ci95[0]:+.1f} to {100 * cgf1.ci95[1]:+.1f})."
    )
    assert expected in page and headline(case.before, case.comparison) == expected
    assert "an improvement beyond the chance of the sample" in page
    for name, delta in case.comparison.metrics.items():
        assert name in page and f"{100 * delta.delta:+.1f}" in page
    assert "This is the tiny model that comes with the workbench" in page
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert stored["metrics"]["cgF1"]["after"] == pytest.approx(cgf1.after)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json", "report.html"]


def test_headline_for_people():
    deltas = {"cgF1": Delta(0.123, 0.71, 0.587, (0.4, 0.7)), "box_cgF1": Delta(0.2, 0.3, 0.1, None)}
    before = Evaluation("m", "d", 0.5, (), {}, 0.0)
    pair_stub = compare_pairs(60)
    comparison = Comparison({}, {}, deltas, pair_stub, 12, 10, "")
    text = headline(before, comparison, learned_ids=[])
    assert (
        text
        == "On 0 unseen pictures with 60 questions, cgF1 went from 12.3 to 71.0 (+58.7, 95 % interval +40.0 to +70.0)."
    )
    nan = float("nan")
    deltas["cgF1"] = Delta(nan, nan, nan, None)
    assert "box_cgF1 went from 20.0 to 30.0 (+10.0)." in headline(before, comparison)


def compare_pairs(count: int) -> tuple:
    examples = scenes(count // 3)
    evaluation = evaluate(ColourFinder(90), examples, model_name="m", progress=False)
    return compare(evaluation, evaluation, num_resamples=1).pairs


def test_whether_the_pictures_are_unseen_is_said(case, tmp_path):
    assert "On 12 unseen pictures" in case.write(tmp_path, learned_ids=["other"])
    seen = case.write(tmp_path, learned_ids=["scene <0>", "scene <1>"])
    assert "unseen" not in Reader(seen).text
    assert "2 measured pictures also served for learning" in seen


def test_a_metric_that_cannot_be_told_is_a_dash(case, tmp_path):
    nothing_hit = evaluate(ColourFinder(170), case.examples, model_name="m", progress=False)
    assert np.isnan(nothing_hit.metrics["mIoU_hits"])
    page = case.write(tmp_path, before=nothing_hit, comparison=compare(nothing_hit, case.after, num_resamples=5))
    row = re.search(r"mIoU_hits.*?</tr>", page, re.S).group(0)
    assert "\u2013" in row and "nan" not in Reader(page).text.lower()


def test_other_models_are_not_called_tiny(case, tmp_path):
    large = replace(case.before, model="facebook/sam3")
    page = case.write(tmp_path, before=large, comparison=compare(large, case.after, num_resamples=5))
    assert "This is the tiny model" not in page


def test_false_claims_per_absent_phrase_are_counted(case, tmp_path):
    page = case.write(tmp_path)
    section = re.search(r'<section id="phrases-that-are-not-in-the-picture">(.*?)</section>', page, re.S).group(1)
    rows = {
        cells[0]: cells[1:]
        for row in re.findall(r"<tr>(.*?)</tr>", section, re.S)
        if (cells := re.findall(r"<t[hd][^>]*>(?:<span>)?(.*?)(?:</span>)?</t[hd]>", row, re.S))
    }
    for phrase in ("green patch", "blue patch"):
        absent = [r for r in case.before.records if r.phrase == phrase and r.status == "absent"]
        claimed = sum(any(score >= 0.5 for score in r.scores) for r in absent)
        assert rows[phrase][0] == str(len(absent)) and rows[phrase][1].startswith(f"{claimed} ")
    total = sum(r.status == "absent" for r in case.before.records)
    assert rows["all 3 phrases"][0] == str(total)


def test_a_set_without_absent_phrases_says_so(case, tmp_path):
    examples = ExampleSet(
        "present only",
        tuple(replace(e, concepts=tuple(c for c in e.concepts if c.num_objects)) for e in case.examples),
    )
    evaluation = evaluate(ColourFinder(90), examples, model_name="m", progress=False)
    comparison = compare(evaluation, evaluation, num_resamples=5)
    page = Reader(
        case.write(tmp_path, before=evaluation, after=evaluation, comparison=comparison, examples=examples)
    ).text
    assert "No phrase was asked that is absent" in page
    assert "No absent phrase was asked, so IL_MCC, IL_FPR and cgF1 are 0 by definition" in page
    assert "The interval includes 0" in page


def test_more_false_claims_raise_a_warning(case, tmp_path):
    comparison = compare(case.after, case.before, num_resamples=50)
    page = case.write(tmp_path, before=case.after, after=case.before, comparison=comparison)
    assert "claims absent phrases more often than before" in page
    assert "claims absent phrases more often than before" not in case.write(tmp_path)


def test_pictures_are_capped_and_the_rest_counted(case, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.report.PICTURE_SIDE_PX", SIZE)
    monkeypatch.setattr("workbench.report.MAX_PAIRS", 24)
    page = Reader(case.write(tmp_path))
    assert len(page.images) == 3 * 24 and "12 more questions are in comparison.json" in page.text
    monkeypatch.setattr("workbench.report.MAX_PAIRS", 36)
    page = Reader(case.write(tmp_path))
    assert len(page.images) == 3 * 36 and "more question" not in page.text
    assert page.images[0][1].startswith(worth_seeing(case.comparison, 36)[0].phrase)


def test_a_picture_that_is_gone_does_not_lose_the_report(case, tmp_path):
    shown = worth_seeing(case.comparison, 2)
    page = case.write(tmp_path, examples=case.examples.subset([shown[0].image_id]))
    assert shown[1].image_id != shown[0].image_id
    assert "No picture:" in page and "has no image_id" in page
    assert len(Reader(page).images) == 3


def test_the_training_curve_is_drawn_or_its_absence_said(case, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps({"step": step, "loss": 1 / step}) for step in (1, 2, 3)))
    page = Reader(case.write(tmp_path / "out", log=log))
    assert page.images[-1][1] == "losses over the steps" and page.images[-1][0].startswith("data:image/png")
    log.write_text("{}")
    assert "The training curve cannot be drawn" in case.write(tmp_path / "out", log=log)
    assert "There is no log of a training" in case.write(tmp_path / "out")


def test_optional_sections_and_figures_as_files(case, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps({"step": step, "loss": 1 / step}) for step in (1, 2, 3)))
    plain = case.write(tmp_path / "plain")
    assert "Working thresholds" not in plain and "must not forget" not in plain
    page = Reader(
        case.write(
            tmp_path / "full",
            log=log,
            calibration=CalibrationPanel.of(calibrate(case.before.records), case.after.records),
            retention=RetentionPanel("other pictures", (RetentionRow("refusals", 0.9, 0.5, 0.02),)),
            png_dir=tmp_path / "full" / "figures",
        )
    )
    assert "Working thresholds" in page.text and "What it must not forget" in page.text
    assert "forgotten more than was allowed: refusals" in page.text
    assert "share of hits over the score, recorded and calibrated" in [alt for _, alt in page.images]
    names = ["metrics.png", "reliability.png", "results.png", "training.png"]
    assert sorted(path.name for path in (tmp_path / "full" / "figures").iterdir()) == names
    assert all(Image.open(tmp_path / "full" / "figures" / name).width > 400 for name in names)


def test_settings_and_code_to_load_the_adapter(case, tmp_path):
    page = Reader(case.write(tmp_path)).text
    assert 'load_sam3("tiny")' in page and '"runs/a"' in page
    assert "score threshold" in page and "patches & co" in page
    assert "Put in the folder" in case.write(tmp_path, facts={})


def test_evaluations_of_other_pairs_are_refused_and_nothing_is_written(case, tmp_path):
    other = evaluate(ColourFinder(90), case.examples[:4], model_name="m", progress=False)
    with pytest.raises(ValueError, match="36 pairs, 'after' has 12, 12 in common"):
        case.write(tmp_path / "new", after=other)
    assert not (tmp_path / "new").exists()
