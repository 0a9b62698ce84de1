"""The tables of the report: metrics with their changes, phrases claimed where they are not, objects found and missed.
Evaluations and their comparison come in, HTML goes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from workbench.record_metrics import LOWER_IS_BETTER
from workbench.report_style import METRICS, NOT_DEFINED, counted, percent, table
from workbench.show import verdict_of

if TYPE_CHECKING:
    from workbench.bootstrap import Delta
    from workbench.compare import Comparison
    from workbench.evaluate import Evaluation, PairRecord

MAX_ROWS = 12


def metrics_table(comparison: Comparison) -> str:
    """Every metric before and after, its change with an interval, and how sure the change is."""
    rows = []
    for name, delta in comparison.metrics.items():
        meaning = METRICS.get(name, "")
        interval = NOT_DEFINED
        if delta.ci95 is not None:
            interval = f"{100 * delta.ci95[0]:+z.1f} to {100 * delta.ci95[1]:+z.1f}"
        rows.append(
            (
                f"{escape(name)}<small>{escape(meaning)}</small>",
                percent(delta.before),
                percent(delta.after),
                _change(name, delta),
                interval,
                track(delta),
            )
        )
    note = (
        "All values in per cent. The interval comes from drawing the pictures again at random "
        f"({comparison.num_resamples} draws over {counted(comparison.num_images, 'picture')}) and is widened "
        "where they are few; a change whose interval includes 0 is marked unsure."
    )
    head = ("metric", "before", "after", "change", "95 % interval", "0 to 100")
    return f"<p>{escape(note)}</p>{table(head, rows, 'metrics')}"


def _change(name: str, delta: Delta) -> str:
    if not math.isfinite(delta.delta):
        return NOT_DEFINED
    return judged_change(f"{100 * delta.delta:+z.1f}", delta, lower_is_better=name in LOWER_IS_BETTER)


def judged_change(text: str, delta: Delta, *, lower_is_better: bool) -> str:
    """A change as HTML with a word: same, better, worse, or unsure where its interval includes 0.

    Args:
        text: the change as it is shown, a number.
        delta: of the metric, defined.
        lower_is_better: which way is better.
    """
    if float(text) == 0:
        return f"{text} <em>same</em>"
    is_better = (delta.delta > 0) != lower_is_better
    kind = ("better" if is_better else "worse") if delta.is_certain else "unsure"
    return f'{text} <em class="{kind}">{kind}</em>'


def track(delta: Delta) -> str:
    """A fraction before and after on a line from 0 to 1, as HTML."""
    if not math.isfinite(delta.delta):
        return ""
    start, end = (100 * min(max(value, 0.0), 1.0) for value in (delta.before, delta.after))
    left, width = min(start, end), abs(end - start)
    return (
        f'<span class="track" aria-hidden="true"><i style="left:{left:.1f}%;width:{width:.1f}%"></i>'
        f'<b class="old" style="left:{start:.1f}%"></b><b style="left:{end:.1f}%"></b></span>'
    )


def _by_phrase(evaluation: Evaluation, is_present: bool) -> dict[str, list[PairRecord]]:
    groups: dict[str, list[PairRecord]] = {}
    for record in evaluation.records:
        if (record.num_truth > 0) == is_present:
            groups.setdefault(record.phrase, []).append(record)
    return groups


def refusals_table(before: Evaluation, after: Evaluation) -> str:
    """How often each phrase was claimed in pictures that do not show it, worst phrases first."""
    olds, news = _by_phrase(before, False), _by_phrase(after, False)
    if not olds:
        return (
            "<p>No phrase was asked that is absent from a picture, so nothing is known about false claims. "
            "Add absent phrases with <code>ExampleSet.with_absent([...])</code> and measure again.</p>"
        )
    totals = [[len(group), _claimed(before, group), _claimed(after, news[phrase])] for phrase, group in olds.items()]
    order = np.lexsort([[-row[1] for row in totals], [-row[2] for row in totals]])
    phrases = list(olds)
    rows = [(escape(phrases[i]), str(totals[i][0]), _of(totals[i], 1), _of(totals[i], 2)) for i in order]
    total = np.sum(totals, 0).tolist()
    head = ("phrase", "pictures", "claimed before", "claimed after")
    total_row = (f"all {len(rows)} phrases", str(total[0]), _of(total, 1), _of(total, 2))
    text = "<p>In how many of the pictures without it a phrase was claimed all the same. Worst phrases first.</p>"
    return text + _worst_first(head, rows, total_row)


def _claimed(evaluation: Evaluation, group: Sequence[PairRecord]) -> int:
    return sum(record.num_kept(evaluation.score_threshold) > 0 for record in group)


def _of(counts: Sequence[int], place: int) -> str:
    return f"{counts[place]} <small>({100 * counts[place] / max(1, counts[0]):.0f} %)</small>"


def findings_table(before: Evaluation, after: Evaluation) -> str:
    """How many objects of each phrase were found and how many candidates were false, largest losses first."""
    olds, news = _by_phrase(before, True), _by_phrase(after, True)
    if not olds:
        return "<p>No phrase was asked that is in a picture.</p>"
    found: list[tuple[str, list[int]]] = []
    for phrase, group in olds.items():
        counts = [sum(record.num_truth for record in group)]
        for evaluation, records in ((before, group), (after, news[phrase])):
            verdicts = [verdict_of(record, evaluation.score_threshold) for record in records]
            counts += [sum(len(v.hits) for v in verdicts), sum(len(v.false_alarms) for v in verdicts)]
        found.append((escape(phrase), counts))
    found.sort(key=lambda item: (item[1][3] - item[1][1], item[0]))
    found.append((f"all {len(found)} phrases", np.sum([counts for _, counts in found], 0).tolist()))
    rows = [(name, str(c[0]), _of(c, 1), _of(c, 3), str(c[2]), str(c[4])) for name, c in found]
    head = ("phrase", "objects", "found before", "found after", "false before", "false after")
    text = "<p>An object is found when a candidate overlaps it with an IoU of 0.5 or more; other candidates are false. "
    text += "Largest losses first.</p>"
    return text + _worst_first(head, rows[:-1], rows[-1])


def _worst_first(head: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str]) -> str:
    """A table with its sum; of a long one the first rows, and the rest behind a click."""
    if len(rows) <= MAX_ROWS + 4:
        return table(head, [*rows, total], "plain")
    title = f"<summary>{len(rows) - MAX_ROWS} more phrases</summary>"
    rest = table(head, rows[MAX_ROWS:], "plain")
    return f"{table(head, [*rows[:MAX_ROWS], total], 'plain')}<details>{title}{rest}</details>"
