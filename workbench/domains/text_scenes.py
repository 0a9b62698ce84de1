"""Text in photographs, in the data sets' own forms on disk. Every word is an object of one phrase, outlined by the
polygon of its label; what nobody could read is a don't-care region, so that a picture with nothing else is unknown.

ICDAR 2015 (Incidental Scene Text, task 4.1), TextOCR v0.1, COCO-Text v2.0 and Total-Text (the text form of its
polygons) are read; not the MATLAB files of Total-Text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam3.pictures import shown_size
from workbench.examples import Example, ExampleSet
from workbench.formats.outlines import is_number, mask_of_polygons
from workbench.formats.reading import (
    Finding,
    PhraseTable,
    PictureLabels,
    Reading,
    first_entries,
    path_inside,
    pictures_in,
    read_text,
)

WORD = "word"
_TOTAL_TEXT = re.compile(
    r"x:\s*\[\[(?P<x>[^\]]*)\]\]\s*,\s*y:\s*\[\[(?P<y>[^\]]*)\]\].*?transcriptions:\s*\[(?P<text>[^\n]*)\]", re.DOTALL
)


def read_icdar2015(
    source: str | Path,
    *,
    images: str | Path | None = None,
    phrases: Mapping[str, str | None] | None = None,
    limit: int | None = None,
) -> Reading:
    """Reads ICDAR 2015: `img_1.jpg` with `gt_img_1.txt`, lines of x1,y1,x2,y2,x3,y3,x4,y4,transcription.

    Args:
        source: folder of the text files, and of the pictures unless `images` is given. A byte-order mark is no matter.
        images: folder of the pictures.
        phrases: {"word": phrase to search for}.
        limit: take the first pictures only.

    Returns:
        One set. `###` is a don't-care region. A picture without a text file is unknown; an empty file means no text.

    Raises:
        ValueError: a line that is not of this form; names file and line.
    """
    return _read_texts(source, images, phrases, limit, "icdar2015", _icdar_words)


def read_total_text(
    source: str | Path,
    *,
    images: str | Path | None = None,
    phrases: Mapping[str, str | None] | None = None,
    limit: int | None = None,
) -> Reading:
    """Reads Total-Text: `img1.jpg` with `poly_gt_img1.txt`, lines of `x: [[...]], y: [[...]], transcriptions: [...]`.

    Arguments and result as in `read_icdar2015`; `#` is a don't-care region.

    Raises:
        ValueError: a text that is not of this form; names the file.
    """
    return _read_texts(source, images, phrases, limit, "total-text", _total_text_words)


def _read_texts(
    source: str | Path,
    images: str | Path | None,
    phrases: Mapping[str, str | None] | None,
    limit: int | None,
    form: str,
    words_of: Any,
) -> Reading:
    source = Path(source)
    table = PhraseTable({WORD: WORD}, phrases, str(source))
    findings: list[Finding] = []
    examples = []
    prefix = "gt_" if form == "icdar2015" else "poly_gt_"
    for picture in first_entries(pictures_in(Path(images) if images is not None else source), limit):
        labels = PictureLabels(str(picture), *shown_size(picture), table, findings)
        file = path_inside(source, f"{prefix}{picture.stem}.txt", str(source))
        if file.is_file():
            labels.mark_absent(WORD)
            for where, polygon, is_readable in words_of(file):
                _add_word(labels, where, polygon, is_readable)
        else:
            labels.mark_unknown(WORD)
            problem = f"there is no {file.name}; the picture is unknown."
            findings.append(Finding("not labelled", str(picture), problem, "If it has no text, add an empty file."))
        examples.append(Example(picture.name, picture, labels.width, labels.height, labels.concepts()))
    return Reading(form, (ExampleSet("labels", tuple(examples)),), tuple(findings))


def _add_word(labels: PictureLabels, where: str, polygon: list[float], is_readable: bool) -> None:
    if is_readable:
        labels.add_mask(WORD, mask_of_polygons([polygon], labels.width, labels.height, where), where)
    else:
        labels.add_unusable(WORD)


def _icdar_words(file: Path) -> list[tuple[str, list[float], bool]]:
    words = []
    for number, line in enumerate(read_text(file, "ICDAR 2015 quadrilaterals").splitlines(), start=1):
        fields = line.split(",", 8)
        if not line.strip():
            continue
        try:
            polygon = [float(field) for field in fields[:8]]
        except ValueError:
            polygon = []
        if len(polygon) < 8 or len(fields) < 9:
            raise ValueError(
                f"{file}:{number}: received {line[:80]!r}; expected x1,y1,x2,y2,x3,y3,x4,y4,transcription in pixels."
            )
        words.append((f"{file}:{number}", polygon, fields[8].strip() != "###"))
    return words


def _total_text_words(file: Path) -> list[tuple[str, list[float], bool]]:
    text = read_text(file, "Total-Text polygons")
    words = []
    for number, match in enumerate(_TOTAL_TEXT.finditer(text), start=1):
        xs, ys = ([float(value) for value in match[axis].replace(",", " ").split()] for axis in ("x", "y"))
        if len(xs) != len(ys):
            raise ValueError(f"{file}: polygon {number} has {len(xs)} x and {len(ys)} y; expected as many of each.")
        transcription = re.sub(r"^u?(['\"])(.*)\1$", r"\2", match["text"].strip())
        words.append(
            (
                f"{file}: polygon {number}",
                [v for point in zip(xs, ys, strict=True) for v in point],
                transcription != "#",
            )
        )
    if len(words) != len(re.findall(r"\bx:\s*\[\[", text)) or (text.strip() and not words):
        raise ValueError(
            f"{file}: received {text[:80]!r}; expected x: [[...]], y: [[...]], ornt: [...], transcriptions: [...] for "
            "every word."
        )
    return words


def read_textocr(
    source: str | Path,
    *,
    images: str | Path | None = None,
    phrases: Mapping[str, str | None] | None = None,
    limit: int | None = None,
) -> Reading:
    """Reads a TextOCR file: `imgs`, `anns` with `points` and `utf8_string`, `imgToAnns`.

    Args:
        source: the JSON file, such as TextOCR_0.1_val.json.
        images: folder of the pictures; the file's folder when left out. `file_name` is looked for with and without its
            leading `train/`.
        phrases: {"word": phrase to search for}.
        limit: take the first pictures only.

    Returns:
        One set. The transcription `.` marks text that nobody could read.

    Raises:
        ValueError: another content; names the file and the entry.
    """
    return _read_json(source, images, phrases, limit, "textocr")


def read_coco_text(
    source: str | Path,
    *,
    images: str | Path | None = None,
    phrases: Mapping[str, str | None] | None = None,
    limit: int | None = None,
) -> Reading:
    """Reads a COCO-Text v2 file: `imgs`, `anns` with `mask`, `legibility` and `utf8_string`, `imgToAnns`.

    Arguments as in `read_textocr`. Text marked `illegible` is a don't-care region. Pictures keep the split of the file
    (`set`: train, val, test): one set each.

    Raises:
        ValueError: another content; names the file and the entry.
    """
    return _read_json(source, images, phrases, limit, "coco-text")


def _read_json(
    source: str | Path,
    images: str | Path | None,
    phrases: Mapping[str, str | None] | None,
    limit: int | None,
    form: str,
) -> Reading:
    source = Path(source)
    try:
        content = json.loads(read_text(source, f"a {form} JSON file"))
    except ValueError as error:
        raise ValueError(f"{source} is no valid JSON ({error}); expected a {form} file.") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("imgs", "anns")):
        raise ValueError(f"{source}: imgs and anns are missing; expected a {form} file with both, keyed by id.")
    by_picture: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for key, entry in content["anns"].items():
        by_picture.setdefault(str(entry.get("image_id")), []).append((f"{source}: anns[{key!r}]", entry))
    table = PhraseTable({WORD: WORD}, phrases, str(source))
    findings: list[Finding] = []
    folder = Path(images) if images is not None else source.parent
    sets: dict[str, list[Example]] = {}
    for key, entry in content["imgs"].items():
        split = str(entry.get("set") or source.stem)
        if limit is not None and len(sets.get(split, ())) >= limit:
            continue
        path = _picture_of(folder, entry, f"{source}: imgs[{key!r}]")
        labels = PictureLabels(str(path), *shown_size(path), table, findings)
        labels.mark_absent(WORD)
        for where, annotation in by_picture.get(str(key), ()):
            polygon, is_readable = _word_of(annotation, form, where)
            _add_word(labels, where, polygon, is_readable)
        sets.setdefault(split, []).append(Example(path.name, path, labels.width, labels.height, labels.concepts()))
    read = tuple(ExampleSet(split, tuple(examples)) for split, examples in sets.items())
    return Reading(form, read, tuple(findings))


def _picture_of(folder: Path, entry: Mapping[str, Any], where: str) -> Path:
    name = entry.get("file_name")
    if not isinstance(name, str):
        raise ValueError(f"{where}: file_name is {name!r}; expected the picture's file name.")
    for candidate in (name, Path(name).name):
        path = path_inside(folder, candidate, where)
        if path.is_file():
            return path
    raise ValueError(f"{where}: picture {name} is not in {folder}; expected it there. Name its folder (--images).")


def _word_of(entry: Mapping[str, Any], form: str, where: str) -> tuple[list[float], bool]:
    key = "points" if form == "textocr" else "mask"
    polygon = entry.get(key)
    if isinstance(polygon, list) and len(polygon) == 1 and isinstance(polygon[0], list):
        polygon = polygon[0]
    if not isinstance(polygon, list) or not all(map(is_number, polygon)):
        raise ValueError(f"{where}: {key} is {str(polygon)[:80]}; expected [x1, y1, x2, y2, ...] in pixels.")
    if form == "textocr":
        return polygon, entry.get("utf8_string") != "."
    return polygon, entry.get("legibility") == "legible"
