"""Sections of the report that only some jobs have: working thresholds of a calibration, and what must not be forgotten.
Frozen results come in, HTML goes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.calibrate import Calibration, PhraseCalibration, Share, calibrated
from workbench.plots import plot_reliability
from workbench.reliability import ReliabilityBin, reliability
from workbench.report_style import NOT_DEFINED, inline_figure, percent, table

if TYPE_CHECKING:
    from workbench.evaluate import PairRecord


# --------------------------------------------------------------------------------------------------------- calibration
@dataclass(frozen=True)
class CalibrationPanel:
    """A calibration and what it does to scores on measured pictures.

    Args:
        calibration: the curves.
        before, after: how recorded and calibrated scores of the measured pictures relate to hits.
    """

    calibration: Calibration
    before: tuple[ReliabilityBin, ...]
    after: tuple[ReliabilityBin, ...]

    @classmethod
    def of(cls, calibration: Calibration, records: Sequence[PairRecord]) -> CalibrationPanel:
        """The panel for recorded answers on pictures the calibration does not rest on."""
        return cls(calibration, reliability(records), reliability(calibrated(records, calibration)))


def calibration_section(panel: CalibrationPanel, save: Path | None = None) -> str:
    """The reliability picture, also written to `save`, and the table of thresholds, the most cautious phrase first."""
    overall = panel.calibration.overall
    curves = sorted(panel.calibration.phrases, key=lambda curve: (curve.shift, curve.phrase))
    rows = [_threshold_row(curve, escape(curve.phrase)) for curve in curves]
    rows.append(_threshold_row(overall, f"all {len(curves)} phrases"))
    head = ("phrase", "threshold", "temperature", "precision expected", "recall expected", "questions", "present in")
    few = sum(not curve.num_positive for curve in curves)
    text = (
        "A candidate counts as found when its score reaches the threshold of its phrase; 0.5 would change nothing. "
        "Thresholds of rare phrases lean on those of the others. Precision and recall, in per cent with 95 % interval, "
        f"come from pictures left out in turn. {_presence_words(overall.presence_shift)}"
    )
    if few:
        text += (
            f" {few} phrase{'s are' if few > 1 else ' is'} in none of the pictures this rests on: nothing can be "
            "expected there, and the scores were not raised."
        )
    figure = "<p>No candidate was recorded, so there is no picture of scores and hits.</p>"
    if panel.before:
        caption = (
            "<p>How often a candidate with a given score hits an object: on the diagonal a score of 0.7 is right in "
            "seven of ten cases, below it scores promise too much.</p>"
        )
        alt = "share of hits over the score, recorded and calibrated"
        figure = caption + inline_figure(plot_reliability(panel.before, panel.after), alt, "plot", save)
    return f"<p>{escape(text)}</p>{table(head, rows, 'plain wide')}{figure}"


def _presence_words(shift: float) -> str:
    if abs(shift) < 0.05:
        return "The decision whether a phrase is in the picture at all was left as it was."
    direction = "raised" if shift > 0 else "lowered"
    return f"The belief that a phrase is in the picture at all was {direction} first, by {abs(shift):.2f} logits."


def _threshold_row(curve: PhraseCalibration, name: str) -> tuple[str, ...]:
    return (
        name,
        f"{curve.threshold:.2f}",
        f"{curve.temperature:.2f}",
        _share(curve.precision),
        _share(curve.recall),
        str(curve.num_pairs),
        str(curve.num_positive),
    )


def _share(share: Share | None) -> str:
    if share is None:
        return NOT_DEFINED
    return f"{100 * share.value:.0f} <small>({100 * share.low:.0f} to {100 * share.high:.0f})</small>"


# ----------------------------------------------------------------------------------------------------------- retention
@dataclass(frozen=True)
class RetentionRow:
    """One ability that adapting must not cost.

    Args:
        name: e.g. "general phrases: cgF1".
        before, after: fractions; NaN where undefined.
        limit: largest loss that is accepted, a fraction of 0 or more.
        lower_is_better: whether a rise is the loss, as with false claims.

    Example:
        >>> row = RetentionRow("refusal of absent phrases", before=0.95, after=0.90, limit=0.02)
        >>> round(row.delta, 2), row.is_lost
        (-0.05, True)
    """

    name: str
    before: float
    after: float
    limit: float
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if not self.limit >= 0:
            raise ValueError(f"{self.name!r}: the limit is {self.limit}; expected the largest loss accepted, 0 or more")

    @property
    def delta(self) -> float:
        """after - before."""
        return self.after - self.before

    @property
    def is_lost(self) -> bool:
        """True when the loss exceeds the limit, or can no longer be told."""
        if not math.isfinite(self.before):
            return False
        loss = self.delta if self.lower_is_better else -self.delta
        return not loss <= self.limit + 1e-12


@dataclass(frozen=True)
class RetentionPanel:
    """What a model could do before it was adapted, measured again afterwards.

    Args:
        data: what it was measured on, e.g. "40 general pictures, 200 questions".
        rows: the abilities.
    """

    data: str
    rows: tuple[RetentionRow, ...]


def retention_section(retention: RetentionPanel) -> str:
    """The table of abilities, lost ones first."""
    rows = [
        (
            escape(row.name) + ("<small>lower is better</small>" if row.lower_is_better else ""),
            percent(row.before),
            percent(row.after),
            f"{100 * row.delta:+z.1f}" if math.isfinite(row.delta) else NOT_DEFINED,
            f"{'+' if row.lower_is_better else '-'}{100 * row.limit:.1f}",
            '<em class="worse">lost</em>' if row.is_lost else '<em class="better">kept</em>',
        )
        for row in sorted(retention.rows, key=lambda row: not row.is_lost)
    ]
    text = (
        f"Measured on {retention.data}, in per cent. An ability is lost when it changes for the worse by more than its "
        "limit."
    )
    return f"<p>{escape(text)}</p>{table(('ability', 'before', 'after', 'change', 'limit', ''), rows, 'metrics')}"


def retention_warnings(retention: RetentionPanel | None) -> tuple[str, ...]:
    """One sentence about what was lost, if anything was."""
    lost = [row.name for row in retention.rows if row.is_lost] if retention else []
    if not lost:
        return ()
    return (
        f"The adapted model has forgotten more than was allowed: {', '.join(lost)}. Train with fewer steps or with "
        "general pictures beside your own before you rely on it.",
    )
