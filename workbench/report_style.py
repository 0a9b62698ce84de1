"""Words and looks of the report: what each metric means, what its limits are, the page frame and its style sheet, and
how numbers, tables and figures become HTML."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sam3.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_DEFINED = "\u2013"

METRICS = {
    "cgF1": "overall: outlines where the phrase is there (pmF1) times the right decision whether it is (IL_MCC)",
    "pmF1": "outlines found, counted only where the phrase is in the picture",
    "F1": "outlines found, false alarms on absent phrases included",
    "AP": "average precision of the outlines over all scores, mean over phrases",
    "AP50": "AP when half an overlap is enough",
    "AP_positive": "AP counted only where the phrase is in the picture",
    "mIoU": "mean overlap of the labelled objects with their outlines; 0 for a missed one",
    "mIoU_hits": "mean overlap of the outlines that hit an object",
    "semantic_IoU": "overlap of all outlines of a phrase, taken as one area, with all its objects",
    "IL_MCC": "is the phrase in the picture at all? 100: always right, 0: guessing",
    "IL_FPR": "absent phrases that were claimed all the same; lower is better",
    "IL_recall": "present phrases for which something was found",
    "count_accuracy": "questions answered with the right number of objects",
    "count_error": "objects too many or too few, per labelled object; lower is better",
    "box_cgF1": "cgF1 with boxes in place of outlines",
    "box_pmF1": "pmF1 with boxes",
    "box_AP": "AP with boxes",
}

EVENTS = {
    "false alarm appeared": "new false alarm",
    "miss appeared": "object lost",
    "worse": "worse",
    "same": "unchanged",
    "better": "better",
    "miss gone": "object gained",
    "false alarm gone": "false alarm gone",
}

WORSE_EVENTS = ("false alarm appeared", "miss appeared", "worse")

LIMITS = (
    "The numbers hold for pictures like these. A model that was adapted to a few pictures can fail on other ones.",
    "Phrases that are not in the tables were not measured; adapting can change them too, for better or worse.",
    "Labels count as correct. A missing label turns a right answer into a false alarm.",
    "The intervals tell how much depends on the choice of pictures, not how much another training run would differ.",
)

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light; --line: #d5dae0; --quiet: #59636e; --good: #00664a; --bad: #a33b00; --blue: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1b2128; font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 24px 64px; }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--quiet); margin: 0 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p, li { max-width: 76ch; margin: .4rem 0; overflow-wrap: anywhere; }
small { color: var(--quiet); font-size: .84rem; font-weight: 400; overflow-wrap: anywhere; }
.headline { font-size: 1.6rem; line-height: 1.3; font-weight: 650; max-width: 46ch; margin: 0 0 .8rem; }
.warning { border-left: 4px solid var(--bad); background: #fdf1ea; padding: .5rem .8rem; }
nav { margin: 1rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .92rem; }
a { color: #00558a; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .42rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child { text-align: left; font-weight: 600; padding-left: 0; overflow-wrap: anywhere; }
thead th { color: var(--quiet); font-size: .84rem; font-weight: 600; vertical-align: bottom; }
.metrics td { white-space: nowrap; }
.metrics th small { display: block; max-width: 48ch; }
.settings td, .settings thead th { text-align: left; overflow-wrap: anywhere; }
.settings th:first-child { width: 30%; }
em { font-style: normal; font-size: .84rem; font-weight: 600; color: var(--quiet); }
em.better { color: var(--good); } em.worse { color: var(--bad); }
.track { position: relative; display: inline-block; width: 110px; height: 10px; margin-top: 8px; background: #eceff2; }
.track i { position: absolute; top: 3px; height: 4px; background: var(--blue); }
.track b { position: absolute; top: -1px; width: 12px; height: 12px; margin-left: -6px; border-radius: 50%;
  background: var(--blue); border: 2px solid var(--blue); }
.track b.old { background: #fff; }
.card { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .3rem .8rem; margin: 1.1rem 0;
  padding: .8rem; border: 1px solid var(--line); border-radius: 6px; break-inside: avoid; }
.card header { grid-column: 1 / -1; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; background: #eceff2; }
figcaption { font-size: .88rem; padding-top: .2rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .92rem; }
.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .4em; vertical-align: -.1em; }
.truth { background: #009e73; } .hit { background: #0072b2; } .alarm { background: #d55e00; }
.miss { background: #f0e442; border: 1px solid #8a8200; }
.clip { margin: 1.1rem 0; padding: .8rem; border: 1px solid var(--line); border-radius: 6px; break-inside: avoid; }
.clip video, .clip img { display: block; width: 100%; height: auto; margin: .5rem 0; background: #eceff2; }
.plot { width: 100%; max-width: 560px; height: auto; }
.scroll { overflow-x: auto; } .curve { width: 100%; min-width: 620px; max-width: 900px; height: auto; }
pre { background: #f4f6f8; padding: .8rem 1rem; overflow-x: auto; border-radius: 6px; font-size: .9rem; }
summary { cursor: pointer; color: #00558a; }
@media (max-width: 640px) {
  main { padding: 16px 14px 48px; }
  .headline { font-size: 1.3rem; }
  .card { grid-template-columns: repeat(2, minmax(0, 1fr)); padding: .6rem; gap: .5rem; }
  .card header { grid-column: auto; }
  thead { display: none; }
  tr { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  th, td { display: block; border: 0; padding: 0; }
  th:first-child { flex: 1 0 100%; }
  td, .settings td { flex: none; text-align: left; }
  .plain tr { display: grid; grid-template-columns: 7fr 10fr 10fr; }
  .plain th:first-child { grid-column: 1 / -1; }
  .plain td:nth-child(5) { grid-column: 2; }
  .plain.wide tr { display: flex; }
  .plain.settings tr { display: block; }
  .settings td { white-space: normal; }
  td::before { content: attr(data-title); display: block; color: var(--quiet); font-size: .8rem; }
  .settings td::before { content: none; }
  .track { width: 130px; }
}
@media print {
  main { max-width: none; padding: 0; }
  nav, .clip video { display: none; }
  h2 { break-after: avoid; }
  tr, figure { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def percent(value: float) -> str:
    """A fraction in per cent with one digit; a dash where it is undefined."""
    return f"{100 * value:.1f}" if math.isfinite(value) else NOT_DEFINED


def counted(number: int, noun: str) -> str:
    """A number with its noun, e.g. "3 pictures"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    """A table from cells that are HTML already; the column titles repeat beside the cells on narrow screens."""
    top = "".join(f'<th scope="col">{title}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(
            f'<td data-title="{title}"><span>{cell}</span></td>' for title, cell in zip(head[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def page(title: str, opening: Sequence[str], sections: Mapping[str, str]) -> str:
    """The whole file from HTML: the opening paragraphs, links to the sections, the sections."""

    def anchor(name: str) -> str:
        return re.sub(r"\W+", "-", name.lower())

    links = " ".join(f'<a href="#{anchor(name)}">{escape(name)}</a>' for name in sections)
    parts = [
        f'<section id="{anchor(name)}"><h2>{escape(name)}</h2>{content}</section>' for name, content in sections.items()
    ]
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join([*opening, f"<nav>{links}</nav>", *parts]))


def inline_jpeg(pixels: np.ndarray) -> str:
    """The address of (H,W,3) uint8 pixels that holds the picture itself."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def inline_figure(figure: Figure, alt: str, kind: str = "curve", save: Path | None = None) -> str:
    """A figure inside the page and, drawn only once, as a PNG file; wide ones scroll on narrow screens."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    if save is not None:
        write_atomically(save, lambda temporary: temporary.write_bytes(file.getvalue()))
    data = base64.b64encode(file.getvalue()).decode("ascii")
    image = f'<img class="{kind}" src="data:image/png;base64,{data}" alt="{escape(alt, quote=True)}">'
    return f'<div class="scroll">{image}</div>'
