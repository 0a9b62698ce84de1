"""The report of a comparison on videos: one HTML file that works offline, with the answers side by side as far as they
fit into it. Comparisons and the files of the clips come in; everything shown is computed from them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from sam3.files import write_text
from workbench.report_style import NOT_DEFINED, counted, inline_jpeg, page, percent, table
from workbench.report_tables import judged_change, track
from workbench.video_compare import VideoComparison, VideoPairChange, interval_text
from workbench.video_statistics import VIDEO_METRICS

MAX_CLIPS = 12
MAX_ROWS = 40
_MAX_VIDEO_BYTES = 4_000_000  # of one embedded video; larger ones lie beside the report
_MAX_EMBEDDED_BYTES = 24_000_000

LIMITS = (
    "The numbers hold for clips like these. Other motion, longer clips and other objects can give other numbers.",
    "The intervals tell how much depends on the choice of clips, not how much another training run would differ.",
    "Times are of this machine, with whatever else it was doing; their intervals know nothing of that.",
)
LABEL_LIMIT = "Labels count as correct. A missing label turns a right answer into a false alarm."


@dataclass(frozen=True, eq=False)
class ClipFiles:
    """What was written for one clip.

    Args:
        folder: beside the report, holds `before_after.mp4`, `video.mp4` (without masks) and `masklets.json`.
        strip: (h,w,3) uint8, some frames, the answers one below the other.
    """

    folder: Path
    strip: np.ndarray


def write_video_report(
    out_dir: str | Path,
    comparison: VideoComparison,
    clips: Mapping[str, ClipFiles],
    *,
    titles: tuple[str, str] = ("before", "after"),
    against_links: VideoComparison | None = None,
    notes: Sequence[str] = (),
    facts: Mapping[str, str],
) -> Path:
    """Writes `report.html`.

    Args:
        out_dir: folder, made if needed; the files of the clips lie somewhere in it.
        comparison: of the two answers.
        clips: name of a clip -> its files.
        titles: what the two answers are called.
        against_links: the second answer compared with linked detections of the same model.
        notes: what a reader must know, in plain sentences.
        facts: settings to list, name -> value.

    Returns:
        The path of the report.

    Raises:
        ValueError: the comparison has clips without files.
    """
    missing = [name for name in comparison.videos if name not in clips]
    if missing:
        raise ValueError(f"the comparison has {len(missing)} clips without files, such as {missing[0]!r}; expected all")
    target = Path(out_dir) / "report.html"
    limits = (*LIMITS, LABEL_LIMIT) if _has_labels(comparison) else LIMITS
    sections = {"Numbers": _numbers(comparison, titles)}
    if against_links is not None:
        sections["What the tracker adds"] = _links(against_links)
    sections |= {
        "Questions": _questions(comparison, titles),
        "Clips": _clips(comparison, clips, target.parent, titles),
        "Settings": _settings(comparison, facts),
        "Limits": "<ul>" + "".join(f"<li>{escape(limit)}</li>" for limit in limits) + "</ul>",
    }
    opening = [f'<p class="headline">{escape(headline(comparison))}</p>']
    opening += [f"<p>{escape(sentence)}</p>" for sentence in (*_verdict(comparison, titles), *notes)]
    write_text(target, page(f"{titles[0]} and {titles[1]}: {comparison.after['data']}".capitalize(), opening, sections))
    return target


def headline(comparison: VideoComparison) -> str:
    """The result in one sentence, e.g. "On 6 clips with 30 questions, pHOTA went from 31.0 to 52.5 (+21.5, ...)"."""
    asked = f"On {counted(comparison.num_clips, 'clip')} with {counted(len(comparison.pairs), 'question')}"
    delta = comparison.metrics.get("pHOTA")
    if delta is None:
        counts = _masklets(comparison)
        return f"{asked}: {counted(counts[0], 'masklet')} before, {counts[1]} after."
    metric = VIDEO_METRICS["pHOTA"]
    change = metric.text(delta.delta, has_sign=True)
    if delta.ci95 is not None:
        change += f", 95 % interval {interval_text('pHOTA', delta)}"
    return f"{asked}, pHOTA went from {metric.text(delta.before)} to {metric.text(delta.after)} ({change})."


def _has_labels(comparison: VideoComparison) -> bool:
    return "pHOTA" in comparison.metrics


def _masklets(comparison: VideoComparison) -> tuple[int, int]:
    return sum(pair.masklets_before for pair in comparison.pairs), sum(pair.masklets_after for pair in comparison.pairs)


def _verdict(comparison: VideoComparison, titles: tuple[str, str]) -> list[str]:
    sentences = []
    if _has_labels(comparison):
        delta = comparison.metrics["pHOTA"]
        if delta.ci95 is None:
            sentences.append("There are too few clips to say how much of the change is chance.")
        elif delta.is_certain:
            way = "an improvement" if delta.delta > 0 else "a loss"
            sentences.append(f"The change is {way} beyond the chance of the sample.")
        elif delta.delta == 0:
            sentences.append("Nothing changed.")
        else:
            sentences.append("The interval includes 0: this may be chance, measure on more clips.")
        worse = len(comparison.regressions)
        better = sum(pair.change > (0.0, 0.0, 0) for pair in comparison.pairs)
        stayed = len(comparison.pairs) - worse - better
        sentences[0] += f" {better} of the questions got better, {worse} got worse, {stayed} stayed."
    else:
        sentences.append(
            "The clips have no labels: what follows are counts, and nothing is known about right and wrong."
        )
    names = " ".join(
        f"{title.capitalize()}: {side['model']}."
        for title, side in zip(titles, (comparison.before, comparison.after), strict=True)
    )
    return [*sentences, names]


# -------------------------------------------------------------------------------------------------------------- tables
def _numbers(comparison: VideoComparison, titles: tuple[str, str]) -> str:
    note = "Values in per cent, but for the numbers of objects and switches and the seconds. "
    if comparison.num_resamples:
        note += (
            f"The interval comes from drawing the clips again at random ({comparison.num_resamples} draws over "
            f"{counted(comparison.num_clips, 'clip')}); a change whose interval includes 0, or that "
            "has none, is marked unsure. "
        )
    return f"<p>{escape(note + comparison.note)}</p>{_metrics_table(comparison, titles)}"


def _metrics_table(comparison: VideoComparison, titles: tuple[str, str]) -> str:
    rows: list[tuple[str, ...]] = []
    for name, delta in comparison.metrics.items():
        metric = VIDEO_METRICS[name]
        change = NOT_DEFINED
        if math.isfinite(delta.delta):
            text = metric.text(delta.delta, has_sign=True)
            change = judged_change(text, delta, lower_is_better=metric.lower_is_better)
        rows.append(
            (
                f"{escape(name.replace('_', ' '))}<small>{escape(metric.meaning)}</small>",
                metric.text(delta.before),
                metric.text(delta.after),
                change,
                interval_text(name, delta) or NOT_DEFINED,
                track(delta) if metric.scale == 100 else "",
            )
        )
    if not _has_labels(comparison):
        before, after = _masklets(comparison)
        rows.append(
            ("masklets<small>objects found</small>", str(before), str(after), f"{after - before:+d}", NOT_DEFINED, "")
        )
        rows.append(("id switches<small>unknown without labels</small>", *[NOT_DEFINED] * 4, ""))
    head = ("metric", *map(escape, titles), "change", "95 % interval", "0 to 100")
    return table(head, rows, "metrics")


def _links(comparison: VideoComparison) -> str:
    text = (
        "The same model finds the objects in every frame by itself, and detections of neighbouring frames are linked "
        "by their overlap: no tracker, no memory but the last mask, the same thresholds. What follows sets that "
        "against the tracker."
    )
    return f"<p>{text}</p>{_metrics_table(comparison, ('linked detections', 'tracker'))}"


def _questions(comparison: VideoComparison, titles: tuple[str, str]) -> str:
    """Every pair, regressions first; of a long list the first rows, and the rest behind a click."""
    has_labels = _has_labels(comparison)
    rows = [_labelled_row(pair) if has_labels else _plain_row(pair) for pair in comparison.pairs]
    columns = ("found, false", "F1", "HOTA") if has_labels else ("masklets", "frames")
    head = (
        "question",
        *(["objects"] if has_labels else []),
        *(f"{escape(c)} {escape(t)}" for c in columns for t in titles),
    )
    text = "A masklet is found when it overlaps a labelled one with an IoU of 0.5 or more over the whole clip."
    text += " What got worse comes first: a lower F1, else a lower HOTA, else more switches, however small."
    text = f"<p>{text}</p>" if has_labels else ""
    if len(rows) <= MAX_ROWS + 4:
        return text + table(head, rows, "plain wide")
    rest = table(head, rows[MAX_ROWS:], "plain wide")
    summary = f"<summary>{len(rows) - MAX_ROWS} more questions</summary>"
    return f"{text}{table(head, rows[:MAX_ROWS], 'plain wide')}<details>{summary}{rest}</details>"


def _labelled_row(pair: VideoPairChange) -> tuple[str, ...]:
    mark = ' <em class="worse">worse</em>' if pair.is_worse else ""
    mark = mark or (' <em class="better">better</em>' if pair.change > (0.0, 0.0, 0) else "")
    name = f"{escape(pair.phrase)}{mark}<small> {escape(pair.video)}</small>"
    sides = (pair.before, pair.after)
    return (
        name,
        str(pair.before.num_truth if pair.before else 0),
        *(f"{side.num_found}, {side.num_false}" if side else NOT_DEFINED for side in sides),
        *(percent(side.f1) if side else NOT_DEFINED for side in sides),
        *(percent(side.hota) if side else NOT_DEFINED for side in sides),
    )


def _plain_row(pair: VideoPairChange) -> tuple[str, ...]:
    counts = (pair.masklets_before, pair.masklets_after, pair.frames_before, pair.frames_after)
    return (f"{escape(pair.phrase)}<small> {escape(pair.video)}</small>", *map(str, counts))


def _settings(comparison: VideoComparison, facts: Mapping[str, str]) -> str:
    speeds = [f"{side['seconds'] / side['num_frames']:.3f}" for side in (comparison.before, comparison.after)]
    known = {
        "seconds per frame": f"{speeds[0]} before, {speeds[1]} after",
        "frames": str(comparison.after["num_frames"]),
    }
    rows = [(escape(str(name)), escape(str(value))) for name, value in {**facts, **known}.items()]
    return table(("setting", "value"), rows, "plain settings")


# --------------------------------------------------------------------------------------------------------------- clips
def _clips(comparison: VideoComparison, clips: Mapping[str, ClipFiles], root: Path, titles: tuple[str, str]) -> str:
    budget, cards = _MAX_EMBEDDED_BYTES, []
    for name in comparison.videos[:MAX_CLIPS]:
        files = clips[name]
        path = files.folder / "before_after.mp4"
        size = path.stat().st_size
        link = escape(path.relative_to(root).as_posix(), quote=True)
        video = ""
        if size <= min(budget, _MAX_VIDEO_BYTES):
            budget -= size
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            video = f'<video controls loop muted playsinline src="data:video/mp4;base64,{data}"></video>'
        alt = escape(f"{name}: some frames, {titles[0]} above, {titles[1]} below", quote=True)
        cards.append(
            f'<article class="clip"><h3>{escape(name)}</h3>{video}<p><a href="{link}">{link}</a></p>'
            f'<img src="{inline_jpeg(files.strip)}" alt="{alt}">'
            f"<small>Upper row: {escape(titles[0])}. Lower row: {escape(titles[1])}.</small></article>"
        )
    rest = len(comparison.videos) - len(cards)
    more = (
        f" {counted(rest, 'more clip')} in the folder {escape(clips[comparison.videos[0]].folder.parent.name)}."
        if rest
        else ""
    )
    text = "An object has the same colour and number on both sides."
    text += " Clips with the worst change come first." if _has_labels(comparison) else ""
    return f"<p>{text}{more}</p>{''.join(cards)}"
