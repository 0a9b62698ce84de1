"""What comes into the tab *Label* and leaves it: pictures, and zips with COCO labels and marks."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from apps.limits import PICTURE_SUFFIXES, Limits, checked_picture, has_pages, unpack
from apps.state import Workspace
from sam3.files import write_atomically
from workbench.annotation import FORMAT, Annotation, load_annotation, save_annotation
from workbench.annotation_labels import annotation_of, examples_of, with_marks_of
from workbench.annotation_session import SIDECAR, AnnotationSession
from workbench.examples import ExampleSet, phrase_key
from workbench.formats import examples_to_coco
from workbench.formats.reading import Finding
from workbench.formats.sources import read_labels
from workbench.report_style import counted


@dataclass(frozen=True)
class Labelled:
    """Labelled pictures on their way in.

    Attributes:
        files: name and file of each picture.
        marks: of these pictures, in the same order.
    """

    files: tuple[tuple[str, Path], ...]
    marks: Annotation

    @staticmethod
    def of(examples: ExampleSet, marks: Annotation | None = None) -> Labelled:
        """The pictures of a set, read from files, with its labels; what `marks` knows of a picture goes before them."""
        files = tuple((example.image_id, Path(example.image)) for example in examples)  # type: ignore[arg-type]
        labels = annotation_of(examples)
        return Labelled(files, labels if marks is None else with_marks_of(labels, marks))


def take_files(workspace: Workspace, files: list[Path], scratch: Path) -> str:
    """Takes the files, all or none, and says what was taken; a zip with a COCO file brings its labels along."""
    plain = [(path.name, path) for path in files if path.suffix.lower() != ".zip"]
    labelled: list[Labelled] = []
    findings: list[Finding] = []
    for number, archive in enumerate(path for path in files if path.suffix.lower() == ".zip"):
        folder = scratch / str(number) / archive.name
        written = unpack(archive, folder, workspace.limits)
        pictures = [path for path in written if path.suffix.lower() in PICTURE_SUFFIXES]
        if len(pictures) == len(written):
            plain += [(path.name, path) for path in written]
            continue
        for path in pictures:
            checked_picture(path, workspace.limits)
        parts, found = _labels_in(folder)
        labelled += parts
        findings += found
    strange = [name for name, _ in plain if Path(name).suffix.lower() not in PICTURE_SUFFIXES]
    if strange:
        raise ValueError(f"{strange[0]} is no picture; expected PNG, JPEG, WebP, BMP or TIFF files, or a zip of them.")
    added = add(workspace, plain, labelled)
    text = f"{counted(added, 'picture')} {'was' if added == 1 else 'were'} added."
    if cut := [name for name, path in plain if has_pages(path)]:
        text += f" Only the first page was taken of {', '.join(cut[:3])}{' and others' if len(cut) > 3 else ''}."
    if findings:
        kinds = ", ".join(dict.fromkeys(finding.kind for finding in findings))
        text += f" Look at the labels: {kinds} ({counted(len(findings), 'finding')}); the first: {findings[0]}"
    return text


def add(workspace: Workspace, plain: list[tuple[str, Path]], labelled: list[Labelled]) -> int:
    """Adds pictures, and labelled pictures with their labels; gives their number."""
    with workspace.lock:
        names = workspace.add_pictures([*plain, *(file for part in labelled for file in part.files)])
        session = workspace.session()
        if session is not None and labelled:
            session.change(lambda annotation: _with_labels(annotation, names[len(plain) :], labelled))
    return len(names)


def write_labels(session: AnnotationSession, target: Path, limits: Limits) -> int:
    """Writes a zip of the pictures with all marks, and the answers among them as a COCO file; `take_files` takes it
    again.

    Where that is more than may come back in one file, the zip holds smaller ones that may.

    Returns:
        How many zips are inside; 0 where the pictures lie in it themselves.
    """
    pictures = tuple(picture for picture in session.annotation.pictures if picture.image_id in session.images)
    annotation = replace(session.annotation, pictures=pictures)
    with tempfile.TemporaryDirectory() as scratch:
        parts = _parts(annotation, session, Path(scratch), limits)
        whole = parts[0]
        if len(parts) > 1:
            folder = Path(scratch) / "all"
            folder.mkdir()
            for number, part in enumerate(parts, start=1):
                part.rename(folder / f"labels-{number}.zip")
            whole = _zipped(folder)
        write_atomically(target, lambda temporary: shutil.copyfile(whole, temporary))
    return len(parts) if len(parts) > 1 else 0


def _parts(annotation: Annotation, session: AnnotationSession, scratch: Path, limits: Limits) -> list[Path]:
    """Zips of the pictures, which are halved until each zip may come back."""
    pictures, folder = annotation.pictures, Path(tempfile.mkdtemp(dir=scratch))
    examples_to_coco(examples_of(annotation, session.images), folder / "labels.json", images=folder / "images")
    save_annotation(annotation, folder / SIDECAR)
    unpacked = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    file = _zipped(folder)
    is_small = file.stat().st_size <= limits.file_mb << 20 and unpacked <= limits.archive_mb * 1_000_000
    if is_small or len(pictures) < 2:
        return [file]
    file.unlink()
    middle = len(pictures) // 2
    halves = (replace(annotation, pictures=half) for half in (pictures[:middle], pictures[middle:]))
    return [part for half in halves for part in _parts(half, session, scratch, limits)]


def _zipped(folder: Path) -> Path:
    """A zip of the folder, beside it, in the folder's place."""
    file = Path(shutil.make_archive(str(folder), "zip", folder))
    shutil.rmtree(folder)
    return file


def _labels_in(folder: Path) -> tuple[list[Labelled], tuple[Finding, ...]]:
    """The labels of an unpacked archive, also where one folder lies around everything."""
    inner = folder
    while len(inside := list(inner.iterdir())) == 1 and inside[0].is_dir():
        inner = inside[0]
    try:
        reading, marks = read_labels(inner, "coco"), _marks_in(inner)
        return [Labelled.of(examples, marks) for examples in reading.sets], reading.findings
    except ValueError as error:
        words = str(error).replace(f"{folder}/", "").replace(str(folder), folder.name)
        raise ValueError(
            f"{words} Or take the JSON files out of {folder.name}; its pictures then come without labels."
        ) from error


def _marks_in(folder: Path) -> Annotation | None:
    """The marks that `write_labels` put beside the COCO file; another file of that name is none of ours."""
    path = folder / SIDECAR
    if not path.is_file():
        return None
    content = json.loads(path.read_text("utf-8-sig"))
    is_ours = isinstance(content, dict) and content.get("format") == FORMAT
    return load_annotation(path) if is_ours else None


def _with_labels(annotation: Annotation, names: list[str], labelled: list[Labelled]) -> Annotation:
    """The marks with those that came in, for pictures that have these names here."""
    annotation = annotation.with_phrases([phrase for part in labelled for phrase in part.marks.phrases])
    spelling = {phrase_key(phrase): phrase for phrase in annotation.phrases}
    pictures = [picture for part in labelled for picture in part.marks.pictures]
    for name, picture in zip(names, pictures, strict=True):
        pairs = {spelling[phrase_key(phrase)]: pair for phrase, pair in picture.pairs.items()}
        here = annotation.picture(name)
        annotation = annotation.with_picture(
            replace(here, pairs=pairs, num_clicks=picture.num_clicks, seconds=picture.seconds)
        )
    return annotation
