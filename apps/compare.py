"""The tab *Compare*: a finished run before and after, picture by picture and in numbers, and what it leaves to keep."""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from apps.desk import LIGHT_QUEUE, Choice, Desk, chosen, saves_file
from apps.refusals import spoken
from sam3.files import write_atomically
from workbench.adapt import Pictures, read_pictures
from workbench.compare import Comparison, PairChange, compare
from workbench.evaluate import Evaluation
from workbench.recipe import load_recipe
from workbench.record_metrics import LOWER_IS_BETTER
from workbench.report_style import counted, percent
from workbench.show import change_in_words, draw_answer, verdict_of, worth_seeing

_METRICS = ("cgF1", "pmF1", "IL_MCC", "IL_FPR", "box_cgF1", "AP")
_METRICS_IN_WORDS = (
    "cgF1: found, outlined and refused rightly. pmF1: outlines, where the phrase is there. IL_MCC: is it there at all. "
    "IL_FPR: absent phrases claimed, lower is better. box_cgF1: cgF1 by boxes. AP: ranking of the scores."
)
_COLUMNS = ["metric", "before", "after", "change [95 %]"]
_PAIRS = 40
_EMPTY = "**No finished run yet.** Train one in the tab *Adapt*; before and after then stand here side by side."
_KEY = "Blue: right. Orange-red, “false”: wrong. Yellow outline: missed. Drag the line: before is left, after is right."


def build(desk: Desk) -> None:
    """Fills the tab."""
    with gr.Row():
        run = Choice([], label="Run", min_width=200)
        pair = Choice([], label="Picture and phrase, what got worse first", scale=2, min_width=260)
    note = gr.Markdown(_EMPTY, elem_classes="sw-status")
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            slider = gr.ImageSlider(label="Before | after", height=480, max_height=480, interactive=False)
            verdict = gr.Markdown(_KEY, elem_classes="sw-hint")
        with gr.Column(scale=3, min_width=320):
            table = gr.Dataframe(
                headers=_COLUMNS,
                label="In numbers (of 100)",
                interactive=False,
                wrap=True,
                column_widths=["24%", "17%", "17%", "42%"],
            )
            gr.Markdown(_METRICS_IN_WORDS, elem_classes="sw-hint")
            with gr.Row():
                report = gr.Button("Report (HTML)", size="sm")
                adapter = gr.Button("Adapter (zip)", size="sm")

    @spoken
    def listed(user: str, name: str | None) -> tuple[Any, ...]:
        """The finished runs, and the one that is shown."""
        if not user:
            return (gr.skip(),) * 6
        names = desk.of(user).run_names(finished=True)
        name = chosen(names, name)
        return gr.update(choices=names, value=name), *shown(user, name)

    @spoken
    def shown(user: str, name: str | None) -> tuple[Any, ...]:
        """A run: its pairs, the summary, the first pair before and after, the verdict and the numbers."""
        if not name:
            return gr.update(choices=[], value=None), _EMPTY, None, _KEY, []
        folder = desk.of(user).run(name)
        loaded = _loaded(folder, (folder / "after.json").stat().st_mtime_ns)
        seen = worth_seeing(loaded.comparison, _PAIRS)
        choices = [(_title(one), _key(one)) for one in seen]
        first = _key(seen[0])
        return (
            gr.update(choices=choices, value=first),
            _summary(loaded.comparison),
            *_drawn(loaded, first),
            _rows(loaded.comparison),
        )

    @spoken
    def one(user: str, name: str, key: str) -> tuple[Any, str]:
        """One picture and phrase, written `picture | phrase`, before and after."""
        folder = desk.of(user).run(name)
        return _drawn(_loaded(folder, (folder / "after.json").stat().st_mtime_ns), key)

    @spoken
    def report_of(user: str, name: str | None) -> str:
        """The report of a run."""
        return str(_finished(desk, user, name) / "report.html")

    @spoken
    def adapter_of(user: str, name: str | None) -> str:
        """The adapter of a run as a zip archive."""
        folder = _finished(desk, user, name)
        path = folder / f"{folder.name}_adapter.zip"

        def write(draft: Path) -> None:
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted((folder / "adapter").iterdir()):
                    archive.write(file, f"adapter/{file.name}")

        write_atomically(path, write)
        return str(path)

    light: dict[str, Any] = {**LIGHT_QUEUE}
    whole = [pair, note, slider, verdict, table]
    desk.arrived.change(
        listed, [desk.user, run], [run, *whole], api_name="compare_runs", show_progress="hidden", **light
    )
    run.input(shown, [desk.user, run], whole, api_name="compare_show", show_progress_on=note, **light)
    pair.input(
        one, [desk.user, run, pair], [slider, verdict], api_name="compare_pair", show_progress_on=verdict, **light
    )
    saves_file(report, report_of, [desk.user, run], api_name="compare_report")
    saves_file(adapter, adapter_of, [desk.user, run], api_name="compare_adapter")


class _Loaded:
    """A finished run, read from its folder."""

    def __init__(self, folder: Path):
        recipe = load_recipe(folder / "recipe.yaml")
        self.pictures: Pictures = read_pictures(recipe, progress=False)
        self.before, self.after = (Evaluation.load(folder / f"{name}.json") for name in ("before", "after"))
        self.comparison: Comparison = compare(self.before, self.after)


@lru_cache(maxsize=8)
def _loaded(folder: Path, changed: int) -> _Loaded:
    return _Loaded(folder)


def _finished(desk: Desk, user: str, name: str | None) -> Path:
    if not name:
        raise ValueError("there is no finished run yet; train one in the tab Adapt.")
    folder = desk.of(user).run(name)
    if not (folder / "report.html").is_file():
        raise ValueError(f"the run {name!r} is not finished; resume it in the tab Adapt.")
    return folder


def _key(pair: PairChange) -> str:
    return f"{pair.image_id} | {pair.phrase}"


def _title(pair: PairChange) -> str:
    there = f"{pair.num_truth} there" if pair.num_truth else "absent"
    sign = "▼" if pair.delta < 0 else "▲" if pair.delta > 0 else "="
    return f"{sign} {pair.image_id}, {pair.phrase} ({there}): {100 * pair.f1_before:.0f} → {100 * pair.f1_after:.0f}"


def _drawn(loaded: _Loaded, key: str) -> tuple[Any, str]:
    image_id, _, phrase = key.partition(" | ")
    try:
        example = loaded.pictures.test.example(image_id)
        sides = [
            (evaluation, next(r for r in evaluation.records if (r.image_id, r.phrase) == (image_id, phrase)))
            for evaluation in (loaded.before, loaded.after)
        ]
    except (KeyError, StopIteration) as error:
        raise ValueError(f"the run did not measure {key!r}; choose one of the list.") from error
    drawn = [Image.fromarray(draw_answer(example, record, e.score_threshold, side=640)) for e, record in sides]
    words = [str(verdict_of(record, e.score_threshold)) for e, record in sides]
    return tuple(drawn), f"**{phrase}** in {image_id}. Before: {words[0]}. After: {words[1]}. {_KEY}"


def _rows(comparison: Comparison) -> list[list[str]]:
    rows = []
    for name in _METRICS:
        delta = comparison.metrics[name]
        label = f"{name} ↓" if name in LOWER_IS_BETTER else name
        rows.append([label, percent(delta.before), percent(delta.after), change_in_words(delta)])
    return rows


def _summary(comparison: Comparison) -> str:
    worse, pairs = len(comparison.regressions), len(comparison.pairs)
    models = f"**{comparison.before['model']}** against **{comparison.after['model']}**"
    asked = f"{counted(comparison.num_images, 'picture')} not learnt from, {counted(pairs, 'question')}"
    text = f"{models} on {asked}. "
    return f"{text}{worse} {'is' if worse == 1 else 'are'} answered worse than before. {comparison.note}".strip()
