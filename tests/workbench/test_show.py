"""Drawing on images, verdicts, and the figures: that what is drawn is where it should be and says what it should."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from workbench.bootstrap import Delta
from workbench.compare import compare
from workbench.evaluate import Evaluation, PairRecord, metrics_of
from workbench.examples import Concept, Example, ExampleSet
from workbench.formats import rle_of
from workbench.paint import anchors_of, fit_boxes, fit_image, fit_masks, tagged
from workbench.pair_metrics import rle_iou
from workbench.show import (
    FALSE_ALARM,
    HIT,
    MISS,
    PALETTE,
    TRUTH,
    change_in_words,
    draw_answer,
    draw_truth,
    overlay,
    plot_metrics,
    plot_training,
    show_batch,
    show_results,
    verdict_of,
    worth_seeing,
)

SIZE = 120
LEFT, RIGHT, LOW = (10, 20, 40, 50), (70, 20, 100, 50), (40, 80, 70, 110)


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    area = np.zeros((SIZE, SIZE), bool)
    area[y0:y1, x0:x1] = True
    return area


def record(image_id: str, phrase: str, truth: list, found: list, scores: list[float]) -> PairRecord:
    rles, truth_rles = [rle_of(mask(*box)) for box in found], [rle_of(mask(*box)) for box in truth]
    overlaps = tuple(map(tuple, rle_iou(rles, truth_rles).tolist()))
    status = "positive" if truth else "absent"
    return PairRecord(
        image_id, phrase, status, max(scores, default=0.02), tuple(scores), overlaps, overlaps, len(truth), tuple(rles)
    )


def evaluation(model: str, *records: PairRecord) -> Evaluation:
    return Evaluation(model, "demo", 0.5, records, metrics_of(records), 1.0)


def example(image_id: str, *concepts: Concept) -> Example:
    return Example(image_id, np.full((SIZE, SIZE, 3), 100, np.uint8), SIZE, SIZE, concepts)


@pytest.fixture
def results() -> tuple[ExampleSet, Evaluation, Evaluation]:
    two = Concept("star", masks=np.stack([mask(*LEFT), mask(*RIGHT)]))
    one = Concept("ring", boxes_xyxy_px=[LOW])
    data = ExampleSet("demo", (example("a", two, Concept("owl", "absent")), example("b", one), example("c", two)))
    boxed = record("b", "ring", [LOW], [LOW], [0.9])
    boxed = PairRecord(**{**vars(boxed), "has_masks": False, "mask_iou": ()})
    before = evaluation(
        "before",
        record("a", "star", [LEFT, RIGHT], [LEFT, LOW], [0.9, 0.6]),
        record("a", "owl", [], [LOW], [0.8]),
        boxed,
        record("c", "star", [LEFT, RIGHT], [LEFT, RIGHT], [0.9, 0.8]),
    )
    after = evaluation(
        "after",
        record("a", "star", [LEFT, RIGHT], [LEFT, RIGHT], [0.9, 0.8]),
        record("a", "owl", [], [LOW], [0.3]),
        boxed,
        record("c", "star", [LEFT, RIGHT], [LEFT], [0.9]),
    )
    return data, before, after


def test_overlay_draws_inside_on_the_edge_and_around():
    image = np.full((SIZE, SIZE, 3), 100, np.uint8)
    drawn = overlay(image, mask(*LEFT)[None], labels=[""], colours=[(0, 200, 0)], fill=0.5)
    assert drawn[35, 25].tolist() == [50, 150, 50]  # half colour, half picture
    assert drawn[20, 25].tolist() == [0, 200, 0]  # the outline lies inside the mask
    assert drawn[19, 25].tolist() == [255, 255, 255]  # the halo just outside
    changed = (drawn != image).any(-1)
    assert (changed == mask(9, 19, 41, 51)).sum() >= SIZE * SIZE - 4  # but for the four corners of the halo
    assert (image == 100).all()


def test_overlay_draws_small_objects_above_large_ones():
    masks = np.stack([mask(50, 50, 60, 60), mask(20, 20, 100, 100)])
    drawn = overlay(np.zeros((SIZE, SIZE, 3), np.uint8), masks, labels=["", ""], colours=[(255, 0, 0), (0, 0, 255)])
    assert drawn[50, 55].tolist() == [255, 0, 0]


def test_overlay_frames_boxes_and_writes_tags():
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    framed = overlay(image, None, np.array([[30.0, 40.0, 80.0, 90.0]]), labels=[""], colours=[(9, 9, 200)])
    assert framed[40, 50].tolist() == [9, 9, 200] and framed[65, 55].tolist() == [0, 0, 0]
    tagged = overlay(image, None, np.array([[30.0, 40.0, 80.0, 90.0]]), scores=[0.87], colours=[(9, 9, 200)])
    above = tagged[26:39, 30:70]
    assert (above == (9, 9, 200)).all(-1).any() and (above == 255).all(-1).any()
    assert (overlay(image, np.zeros((0, SIZE, SIZE), bool)) == image).all()


def test_overlay_refuses_what_does_not_fit():
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    with pytest.raises(ValueError, match=r"masks are \(8, 8\), the image \(120, 120\)"):
        overlay(image, np.ones((1, 8, 8), bool))
    with pytest.raises(ValueError, match="2 scores for 1 objects"):
        overlay(image, mask(*LEFT)[None], scores=[0.5, 0.4])


def test_overlay_draws_at_the_rim_and_a_single_pixel():
    whole = overlay(np.zeros((20, 30, 3), np.uint8), np.ones((1, 20, 30), bool))
    assert whole.shape == (20, 30, 3) and whole[:, :, 2].all()
    corner = np.zeros((1, 20, 30), bool)
    corner[0, 19, 29] = True
    assert overlay(np.zeros((20, 30, 3), np.uint8), corner, labels=[""])[19, 29].tolist() == list(PALETTE[0])


def test_palette_is_of_distinct_colours_also_for_the_colour_blind():
    deuteranopia = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])  # Machado 2009
    colours = (np.array(PALETTE[:7]) / 255) ** 2.2
    seen = np.clip(colours @ deuteranopia.T, 0, 1) ** (1 / 2.2)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(7, 1)]
    assert len(set(PALETTE)) == len(PALETTE) >= 12
    assert distances.min() > 0.1


def test_scaling_keeps_masks_boxes_and_picture_together():
    image = np.zeros((60, 120, 3), np.uint8)
    image[15:45, 30:90] = 255
    area = image[:, :, 0] > 0
    for side in (240, 60, 90):
        pixels = fit_image(image, side)
        assert max(pixels.shape) == side
        scaled = fit_masks(area[None], pixels.shape[:2])[0]
        assert ((pixels[:, :, 0] > 127) == scaled).mean() > 0.98
        x0, y0, x1, y1 = fit_boxes(np.array([[30, 15, 90, 45]]), (60, 120), pixels.shape[:2])[0]
        assert scaled.sum() == pytest.approx((x1 - x0) * (y1 - y0), rel=0.06)


def test_verdicts_agree_with_the_counts_of_the_metrics(results):
    _, before, after = results
    for pair in (*before.records, *after.records):
        verdict, counts = verdict_of(pair, 0.5), pair.counts(0.5, boxes=not pair.has_masks)
        assert (len(verdict.hits), len(verdict.false_alarms), len(verdict.misses)) == (
            counts.tp[0],
            counts.fp[0],
            counts.fn[0],
        )
    star = verdict_of(before.records[0], 0.5)
    assert (star.hits, star.false_alarms, star.misses) == ((0,), (1,), (1,))
    assert str(star) == "1 of 2 found, 1 false alarm" and not star.is_right
    assert str(verdict_of(before.records[1], 0.5)) == "1 false alarm"
    assert str(verdict_of(after.records[1], 0.5)) == "rightly nothing"
    assert verdict_of(after.records[0], 0.5).is_right


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(pixels.astype(int) - colour) <= 2).all(-1)


def test_answers_show_hits_false_alarms_and_misses_in_place(results):
    data, before, after = results
    drawn = draw_answer(data[0], before.records[0], 0.5, side=SIZE * 2)
    assert drawn.shape == (SIZE * 2, SIZE * 2, 3)
    for colour, (x0, _, x1, y1) in ((HIT, LEFT), (FALSE_ALARM, LOW), (MISS, RIGHT)):
        rows, columns = np.nonzero(near(drawn, colour))
        assert columns.min() == 2 * x0 and rows.max() == 2 * y1 - 1  # the tag may reach above and to the right
        assert near(drawn, colour)[:, : 2 * x1].any()
    star = data[0].concept("star")
    loose = Concept("star", masks=star.masks, boxes_xyxy_px=star.boxes_xyxy_px + [-3.0, -3.0, 3.0, 3.0])
    assert (draw_answer(example("a", loose), before.records[0], 0.5, side=SIZE * 2) == drawn).all()
    silent = draw_answer(data[0], after.records[1], 0.5, side=SIZE)
    assert (silent == data[0].load_image()).all()
    truth = draw_truth(data[1], "ring", side=SIZE)
    assert near(truth, TRUTH)[LOW[1], LOW[0] + 10 : LOW[2]].all()


def test_records_and_examples_must_belong_together(results):
    data, before, _ = results
    with pytest.raises(ValueError, match="'star' has 2 objects in the record and no entry in the examples"):
        draw_answer(data[1], before.records[0], 0.5)
    with pytest.raises(ValueError, match="does not mention 'fox'"):
        draw_truth(data[0], "fox")


def test_regressions_come_first_then_gains_then_the_rest(results):
    _, before, after = results
    comparison = compare(before, after, num_resamples=10)
    names = [(pair.image_id, pair.phrase) for pair in worth_seeing(comparison, 10)]
    assert names == [("c", "star"), ("a", "star"), ("a", "owl"), ("b", "ring")]
    assert [pair.image_id for pair in worth_seeing(comparison, 1)] == ["c"]


def test_many_regressions_leave_room_for_gains():
    worse = [
        (record(f"w{n}", "star", [LEFT], [LEFT], [0.9]), record(f"w{n}", "star", [LEFT], [], [])) for n in range(9)
    ]
    better = [(new, old) for old, new in worse[:4]]
    better = [tuple(PairRecord(**{**vars(r), "image_id": f"b{n}"}) for r in pair) for n, pair in enumerate(better)]
    before, after = (evaluation("m", *side) for side in zip(*worse, *better, strict=True))
    chosen = [pair.image_id[0] for pair in worth_seeing(compare(before, after, num_resamples=5), 6)]
    assert chosen == ["w"] * 4 + ["b"] * 2


def test_figures_are_written_and_hold_their_words(results, tmp_path):
    data, before, after = results
    comparison = compare(before, after, num_resamples=50)
    batch = show_batch(data, rows=1, columns=2, save=tmp_path / "batch.png")
    titles = [axes.get_title("left") for axes in batch.axes]
    assert titles == ["a", "b"]
    entries = [text.get_text() for text in batch.axes[0].get_legend().get_texts()]
    assert entries == ["star (2)", "absent: owl"]
    shown = show_results(data, before, after, comparison=comparison, limit=3, save=tmp_path / "results.png")
    titles = [axes.get_title("left") for axes in shown.axes]
    assert titles[:3] == [
        "star: 2 labelled\nc",
        "before: 2 of 2 found\npresence 0.90",
        "after: 1 of 2 found\npresence 0.90",
    ]
    assert titles[6:9] == [
        "owl: absent\na",
        "before: 1 false alarm\npresence 0.80",
        "after: rightly nothing\npresence 0.30",
    ]
    metrics = plot_metrics(comparison, save=tmp_path / "metrics.svg")
    words = {text.get_text() for text in metrics.axes[0].texts}
    assert change_in_words(comparison.metrics["cgF1"]) in words
    for name in ("batch.png", "results.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert picture.shape[1] > 500 and near(picture, HIT).any()
    assert (tmp_path / "metrics.svg").read_text().startswith("<?xml")
    assert batch._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="0 pictures"):
        show_batch(data[:0])


def test_changes_in_words():
    assert change_in_words(Delta(0.123, 0.71, 0.587, (0.4, 0.7))) == "+58.7 [+40.0, +70.0]"
    assert change_in_words(Delta(0.5, 0.4, -0.1, None)) == "-10.0"


def test_training_curves(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [
        {"step": step, "time": 1e9, "loss": 2 / step, "loss_mask": 1 / step, "presence": 3.0, "mask": 0.0}
        for step in (5, 10, 15)
    ]
    log.write_text("\n".join(map(json.dumps, [*lines, {"step": 15, "cgF1": 0.4}, {"step": 20, "loss": float("nan")}])))
    axes = plot_training(log, save=tmp_path / "log.png").axes[0]
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert list(curves) == ["loss", "loss_mask", "presence"]
    assert curves["loss"] == [[5, 0.4], [10, 0.2], [15, pytest.approx(2 / 15)]]
    log.write_text('{"step": 1, "box": 0.5, "total": 2.0, "gradient": 1.0}\n')
    assert [line.get_label() for line in plot_training(log).axes[0].lines] == ["total", "box"]
    log.write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="holds no loss"):
        plot_training(log)
    log.write_text('{"step": 1, "loss": 1}\n{"step"')
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        plot_training(log)


def test_importing_and_drawing_leaves_pyplot_and_backend_alone():
    code = (
        "import sys, numpy as np, workbench.show as show\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from workbench.examples import Example, ExampleSet\n"
        "show.show_batch(ExampleSet('x', (Example('a', np.zeros((9, 9, 3), np.uint8), 9, 9),)))._repr_png_()\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_tags_do_not_hide_each_other():
    """Five objects on one spot: five tags, each in a place of its own, all of them in the picture."""
    anchors, colours = np.full((5, 2), 150.0), [(200, 0, 40 * number) for number in range(5)]
    drawn = tagged(np.full((200, 200, 3), 255, np.uint8), anchors, ["missed"] * 5, colours)
    sizes = [(drawn == colour).all(-1).sum() for colour in colours]
    assert min(sizes) > 0.8 * max(sizes) > 50


def test_a_speck_does_not_draw_the_tag_to_it():
    speckled = mask(*LOW)
    speckled[2, 2] = True
    ((x, y),) = anchors_of(speckled[None], np.array([[2.0, 2.0, 70.0, 110.0]])).tolist()
    assert (x, y) == (40, 80)
