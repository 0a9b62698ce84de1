"""The report of an adaptation: one HTML file that explains itself, works offline and prints, and the numbers as JSON.
Two evaluations, their comparison and the measured pictures come in; everything shown is computed from them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sam3.files import write_text
from workbench.report_panels import (
    CalibrationPanel,
    RetentionPanel,
    calibration_section,
    retention_section,
    retention_warnings,
)
from workbench.report_style import (
    EVENTS,
    LIMITS,
    WORSE_EVENTS,
    counted,
    inline_figure,
    inline_jpeg,
    page,
    percent,
    table,
)
from workbench.report_tables import findings_table, metrics_table, refusals_table
from workbench.show import (
    draw_answer,
    draw_truth,
    plot_metrics,
    plot_training,
    records_of,
    show_results,
    verdict_of,
    worth_seeing,
)

if TYPE_CHECKING:
    from workbench.compare import Comparison, PairChange
    from workbench.evaluate import Evaluation, PairRecord
    from workbench.examples import ExampleSet

MAX_PAIRS = 24  # on the page
MAX_ROWS = 6  # in the figure of results
PICTURE_SIDE_PX = 420


def write_report(
    out_dir: str | Path,
    *,
    before: Evaluation,
    after: Evaluation,
    comparison: Comparison,
    examples: ExampleSet,
    log: str | Path | None,
    facts: Mapping[str, str],
    learned_ids: Collection[str] | None = None,
    calibration: CalibrationPanel | None = None,
    retention: RetentionPanel | None = None,
    png_dir: str | Path | None = None,
) -> Path:
    """Writes `report.html` and `comparison.json`.

    Args:
        out_dir: folder, made if needed.
        before, after: evaluations of the same pairs.
        comparison: of these two.
        examples: the pictures they were made on.
        log: JSON Lines of the training (see `show.plot_training`), None when there was none.
        facts: settings to list, name -> value. "checkpoint" and "adapter" (paths or names), when given, also appear in
            the lines of code that load the adapter again.
        learned_ids: image_ids of the pictures that were learned from; lets the report say whether the measured
            pictures are unseen.
        calibration: working thresholds and how scores relate to hits; None leaves this section out.
        retention: what the model could do before and must not forget; None leaves this section out.
        png_dir: folder for the figures as PNG files: `metrics`, `results`, and where there is something to draw
            `training` and `reliability`; None writes none.

    Returns:
        The path of report.html.

    Raises:
        ValueError: the comparison is not of these evaluations.
    """
    _check(before, after, comparison)

    names = ("metrics", "results", "reliability", "training")
    metrics_png, results_png, thresholds_png, training_png = (
        None if png_dir is None else Path(png_dir) / f"{name}.png" for name in names
    )
    sections = {
        "Numbers": metrics_table(comparison),
        **({} if retention is None else {"What it must not forget": retention_section(retention)}),
        "Pictures": _pictures(before, after, comparison, examples),
        "Phrases that are not in the picture": refusals_table(before, after),
        "Phrases that are in the picture": findings_table(before, after),
        **({} if calibration is None else {"Working thresholds": calibration_section(calibration, thresholds_png)}),
        "Training": _training(log, training_png),
        "Settings": _settings(before, after, facts),
        "Use the adapter again": _use_again(facts),
        "Limits": _limits(before, after, comparison),
    }
    opening = [f'<p class="headline">{escape(headline(before, comparison, learned_ids))}</p>']
    opening += [f"<p>{escape(sentence)}</p>" for sentence in _second_sentences(before, after, comparison)]
    warnings = [*_warnings(comparison, before, learned_ids), *retention_warnings(retention)]
    opening += [f'<p class="warning">{escape(text)}</p>' for text in warnings]
    target = Path(out_dir) / "report.html"
    comparison.save(target.with_name("comparison.json"))
    if png_dir is not None:
        plot_metrics(comparison, save=metrics_png)
        with suppress(OSError, ValueError, KeyError):  # without the pictures; the page says why
            show_results(examples, before, after, comparison=comparison, limit=MAX_ROWS, save=results_png)
    write_text(target, page(f"Before and after: {before.data}", opening, sections))  # last: then all of it is there
    return target


def headline(before: Evaluation, comparison: Comparison, learned_ids: Collection[str] | None = None) -> str:
    """The result in one sentence, e.g. "On 12 unseen pictures with 60 questions, cgF1 went from 12.3 to 71.0 (...)"."""
    name = _main_metric(comparison)
    delta = comparison.metrics[name]
    measured = {record.image_id for record in before.records}
    unseen = "unseen " if learned_ids is not None and not measured & set(learned_ids) else ""
    asked = f"On {counted(len(measured), f'{unseen}picture')} with {counted(len(comparison.pairs), 'question')}"
    if not math.isfinite(delta.delta):
        return f"{asked}, {name} cannot be told: {percent(delta.before)} before, {percent(delta.after)} after."
    went = f"{name} went from {percent(delta.before)} to {percent(delta.after)}"
    change = f"{100 * delta.delta:+z.1f}"
    if delta.ci95 is not None:
        change += f", 95 % interval {100 * delta.ci95[0]:+z.1f} to {100 * delta.ci95[1]:+z.1f}"
    return f"{asked}, {went} ({change})."


def _check(before: Evaluation, after: Evaluation, comparison: Comparison) -> None:
    pairs = {(pair.image_id, pair.phrase) for pair in comparison.pairs}
    for name, evaluation in (("before", before), ("after", after)):
        found = set(records_of(evaluation))
        if found != pairs:
            raise ValueError(
                f"the comparison has {len(pairs)} pairs, {name!r} has {len(found)}, {len(found & pairs)} in common; "
                "expected the same. Pass compare(before, after) of these two evaluations."
            )


def _main_metric(comparison: Comparison) -> str:
    return "cgF1" if math.isfinite(comparison.metrics["cgF1"].delta) else "box_cgF1"


# ----------------------------------------------------------------------------------------------------------- sentences
def _second_sentences(before: Evaluation, after: Evaluation, comparison: Comparison) -> list[str]:
    delta = comparison.metrics[_main_metric(comparison)]
    if delta.ci95 is None:
        verdict = "There are too few pictures to say how much of the change is chance."
    elif delta.is_certain:
        verdict = f"The change is {'an improvement' if delta.delta > 0 else 'a loss'} beyond the chance of the sample."
    else:
        verdict = "The interval includes 0: this may be chance, measure on more pictures."
    sentences = [verdict]
    absent = comparison.metrics["IL_FPR"]
    if any(record.num_truth == 0 for record in before.records):
        sentences[0] += (
            f" A phrase that is not in the picture was claimed in {percent(absent.before)} % of the cases before and "
            f"in {percent(absent.after)} % after."
        )
    worse, better = len(comparison.regressions), sum(pair.delta > 0 for pair in comparison.pairs)
    sentences.append(
        f"Of {counted(len(comparison.pairs), 'question')}, {better} got better, {worse} got worse and "
        f"{len(comparison.pairs) - better - worse} kept their F1. Models: {before.model!r} before, {after.model!r} "
        f"after. {_model_size(before.model)}".rstrip()
    )
    return sentences


def _model_size(model: str) -> str:
    if re.search(r"(?<![a-z])tiny(?![a-z])", model.lower()):
        return (
            "This is the tiny model that comes with the workbench: a small one for trying things out. "
            "Its numbers say nothing about how well SAM 3 itself would do."
        )
    return ""


def _warnings(comparison: Comparison, before: Evaluation, learned_ids: Collection[str] | None) -> Iterable[str]:
    shared = {record.image_id for record in before.records} & set(learned_ids or ())
    if shared:
        pictures = counted(len(shared), "measured picture")
        yield f"{pictures} also served for learning, so the numbers flatter the adapter."
    refusal = comparison.metrics["IL_FPR"]
    if refusal.delta > 0:
        yield (
            "The adapted model claims absent phrases more often than before. Add absent phrases to the examples and "
            "train again before you rely on it."
        )


# ------------------------------------------------------------------------------------------------------------ pictures
def _pictures(before: Evaluation, after: Evaluation, comparison: Comparison, examples: ExampleSet) -> str:
    shown = worth_seeing(comparison, MAX_PAIRS)
    olds, news = records_of(before), records_of(after)
    cards = []
    for pair in shown:
        key = (pair.image_id, pair.phrase)
        cells = [("labelled", _labelled(pair), _truth_drawer(examples, pair))]
        for title, record, evaluation in (("before", olds[key], before), ("after", news[key], after)):
            text = f"{verdict_of(record, evaluation.score_threshold)}, presence {record.presence_score:.2f}"
            cells.append((title, text, _answer_drawer(examples, record, evaluation.score_threshold)))
        cards.append(_card(pair, cells))
    rest = len(comparison.pairs) - len(shown)
    hidden = f" {counted(rest, 'more question')} are in comparison.json." if rest > 1 else ""
    hidden = " One more question is in comparison.json." if rest == 1 else hidden
    legend = "".join(
        f'<span><i class="{kind}"></i>{text}</span>'
        for kind, text in (
            ("truth", "labelled"),
            ("hit", "found"),
            ("alarm", "false alarm, tag \u201cfalse\u201d"),
            ("miss", "missed, tag \u201cmissed\u201d"),
        )
    )
    text = "What got worse comes first, then the largest gains. Numbers in the pictures are scores."
    return f'<p>{text}{hidden}</p><p class="legend">{legend}</p>{"".join(cards)}'


def _labelled(pair: PairChange) -> str:
    return counted(pair.num_truth, "object") if pair.num_truth else "not in the picture"


def _truth_drawer(examples: ExampleSet, pair: PairChange) -> Callable[[], np.ndarray]:
    return lambda: draw_truth(examples.example(pair.image_id), pair.phrase, PICTURE_SIDE_PX)


def _answer_drawer(examples: ExampleSet, record: PairRecord, threshold: float) -> Callable[[], np.ndarray]:
    return lambda: draw_answer(examples.example(record.image_id), record, threshold, PICTURE_SIDE_PX)


def _card(pair: PairChange, cells: Sequence[tuple[str, str, Callable[[], np.ndarray]]]) -> str:
    kind = "same" if pair.event == "same" else "worse" if pair.event in WORSE_EVENTS else "better"
    figures = []
    for title, text, draw in cells:
        alt = escape(f"{pair.phrase}, {title}: {text}", quote=True)
        try:
            picture = f'<img src="{inline_jpeg(draw())}" alt="{alt}">'
        except (ValueError, KeyError) as error:
            picture = f'<p class="warning">No picture: {escape(str(error))}</p>'
        figures.append(f"<figure>{picture}<figcaption><b>{title}</b> {escape(text)}</figcaption></figure>")
    head = (
        f'<h3>{escape(pair.phrase)} <em class="{kind}">{EVENTS.get(pair.event, pair.event)}</em></h3>'
        f"<small>{escape(pair.image_id)}, F1 {percent(pair.f1_before)} to {percent(pair.f1_after)}</small>"
    )
    return f'<article class="card"><header>{head}</header>{"".join(figures)}</article>'


# -------------------------------------------------------------------------------------------------------- end of report
def _training(log: str | Path | None, save: Path | None) -> str:
    if log is None:
        return "<p>There is no log of a training with these evaluations.</p>"
    try:
        figure = plot_training(log)
    except (OSError, ValueError) as error:
        return f'<p class="warning">The training curve cannot be drawn: {escape(str(error))}</p>'
    return inline_figure(figure, "losses over the steps", save=save)


def _settings(before: Evaluation, after: Evaluation, facts: Mapping[str, str]) -> str:
    thresholds = {str(before.score_threshold), str(after.score_threshold)}
    known = {
        "measured on": before.data,
        "score threshold": " before, ".join(sorted(thresholds)) + (" after" if len(thresholds) > 1 else ""),
        "seconds in the model": f"{before.seconds:.1f} before, {after.seconds:.1f} after",
    }
    rows = [(escape(str(name)), escape(str(value))) for name, value in {**facts, **known}.items()]
    return table(("setting", "value"), rows, "plain settings")


def _use_again(facts: Mapping[str, str]) -> str:
    checkpoint, adapter = facts.get("checkpoint", "tiny"), facts.get("adapter", "path/of/the/adapter")
    code = (
        "from sam3 import ImagePredictor, load_sam3\n"
        "from workbench import load_adapter\n\n"
        f"model = load_sam3({json.dumps(checkpoint, ensure_ascii=False)})\n"
        f"load_adapter(model, {json.dumps(adapter, ensure_ascii=False)})\n"
        "predictor = ImagePredictor(model)\n"
        'predictor.set_image("photo.jpg")\n'
        'print(predictor.predict("the phrase"))'
    )
    text = "" if "adapter" in facts else "<p>Put in the folder in which the adapter was saved.</p>"
    return f"{text}<pre><code>{escape(code)}</code></pre>"


def _limits(before: Evaluation, after: Evaluation, comparison: Comparison) -> str:
    limits = [f"{note}." if note[-1:].isalnum() else note for note in (comparison.note,) if note]
    limits += [note for note in dict.fromkeys((*before.notes, *after.notes)) if note not in comparison.note]
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in (*limits, *LIMITS))}</ul>"
