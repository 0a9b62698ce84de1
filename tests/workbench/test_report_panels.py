"""The optional sections of the report: words, numbers and warnings of calibration and retention."""

from __future__ import annotations

import math
import re

import pytest

from workbench.calibrate import Calibration, PhraseCalibration, Share
from workbench.evaluate import PairRecord
from workbench.plots import plot_reliability
from workbench.report_panels import (
    CalibrationPanel,
    RetentionPanel,
    RetentionRow,
    calibration_section,
    retention_section,
    retention_warnings,
)

RLE = {"size": [4, 4], "counts": "5163"}
SURE = Share(0.9, 0.7, 0.98)
CALIBRATION = Calibration(
    PhraseCalibration("", 1.1, 0.5, 1.25, SURE, SURE, 30, 12),
    (
        PhraseCalibration("cup & saucer", 1.2, 1.0, 1.25, SURE, Share(0.5, 0.2, 0.8), 10, 6),
        PhraseCalibration("star", 1.0, -0.5, 0.0, None, None, 10, 0),
    ),
)


def rows_of(html: str) -> list[list[str]]:
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html, re.S)]
    return [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in found]


def test_thresholds_and_expectations_are_listed_the_most_cautious_phrase_first():
    html = calibration_section(CalibrationPanel(CALIBRATION, (), ()))
    _, star, cup, overall = rows_of(html)
    assert star == ["star", "0.62", "1.00", "\u2013", "\u2013", "10", "0"]
    assert cup == ["cup &amp; saucer", "0.27", "1.20", "90 (70 to 98)", "50 (20 to 80)", "10", "6"]
    assert overall[:2] == ["all 2 phrases", "0.38"]
    assert "raised first, by 1.25 logits" in html
    assert "1 phrase is in none of the pictures this rests on" in html
    assert "No candidate was recorded" in html and "<img" not in html


def test_the_reliability_picture_is_drawn_from_measured_records():
    record = PairRecord(
        "a", "cup & saucer", "positive", 0.9, (0.8, 0.2), ((0.9,), (0.0,)), ((0.9,), (0.0,)), 1, (RLE,) * 2
    )
    panel = CalibrationPanel.of(CALIBRATION, [record])
    assert [b.hit_share for b in panel.before] == [0.0, 1.0]
    assert [b.mean_score for b in panel.after] != [b.mean_score for b in panel.before]
    assert 'alt="share of hits over the score' in calibration_section(panel)
    axes = plot_reliability(panel.before, panel.after).axes
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["recorded", "calibrated"]
    assert axes[0].lines[1].get_xydata().tolist() == [[0.2, 0.0], [0.8, 1.0]]


@pytest.mark.parametrize(
    ("before", "after", "limit", "lower_is_better", "is_lost"),
    [
        (0.90, 0.85, 0.02, False, True),
        (0.90, 0.88, 0.02, False, False),
        (0.90, 0.99, 0.0, False, False),
        (0.05, 0.15, 0.05, True, True),
        (0.05, 0.00, 0.0, True, False),
        (0.90, math.nan, 0.02, False, True),
        (math.nan, 0.5, 0.02, False, False),
    ],
)
def test_an_ability_is_lost_when_it_falls_by_more_than_its_limit(before, after, limit, lower_is_better, is_lost):
    assert RetentionRow("x", before, after, limit, lower_is_better).is_lost is is_lost


def test_lost_abilities_come_first_and_raise_a_warning():
    rows = (RetentionRow("general <cgF1>", 0.55, 0.54, 0.02), RetentionRow("false claims", 0.05, 0.2, 0.05, True))
    html = retention_section(RetentionPanel("40 general pictures", rows))
    _, first, second = rows_of(html)
    assert first == ["false claimslower is better", "5.0", "20.0", "+15.0", "+5.0", "lost"]
    assert second == ["general &lt;cgF1&gt;", "55.0", "54.0", "-1.0", "-2.0", "kept"]
    assert "40 general pictures" in html
    assert "forgotten more than was allowed: false claims." in retention_warnings(RetentionPanel("d", rows))[0]
    assert retention_warnings(RetentionPanel("d", rows[:1])) == () == retention_warnings(None)
    with pytest.raises(ValueError, match="the limit is -0.1"):
        RetentionRow("x", 0.5, 0.5, -0.1)
