"""What stands behind an annotator, whichever interface shows it: the pictures, the marks, the file they are kept in,
and what was last asked for.

Marks come in from an interface or from Python, are checked, merged with what is on disk and written back at once, so
that a restarted kernel or a reloaded page goes on where the last one stopped. Nothing here predicts or trains.
"""

from __future__ import annotations

import io
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from sam3.pictures import read_picture, shown_size
from workbench.annotation import Annotation, PictureMarks, load_annotation, merged, save_annotation
from workbench.annotation_labels import annotation_of, examples_of, with_proposals
from workbench.examples import ExampleSet, phrase_key
from workbench.formats.reading import pictures_in

if TYPE_CHECKING:
    from sam3.predictor import Prediction

Ask = Literal["similar", "outline"]
SIDECAR = "marks.json"
_LOCKS: weakref.WeakValueDictionary[Path, Any] = weakref.WeakValueDictionary()  # by file, which sessions may share


@dataclass(frozen=True)
class Request:
    """What a person asked for; the annotator only reports it.

    Args:
        number: grows with every request.
        ask: "similar" (find more like the marks of the pair: `exemplar_prompt`) or "outline" (cut out the object of one
            mark: `object_prompt`).
        image_id, phrase: the pair.
        mark: the selected mark; None when none is.
    """

    number: int
    ask: Ask
    image_id: str
    phrase: str
    mark: int | None = None

    @staticmethod
    def from_json(value: Any) -> Request:
        """The request as an interface sends it.

        Raises:
            ValueError: it has another form.
        """
        try:
            request = Request(value["number"], value["ask"], value["image"], value["phrase"], value.get("mark"))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"received the request {value!r}; expected number, ask, image and phrase.") from error
        if request.ask not in get_args(Ask):
            raise ValueError(f"received a request for {request.ask!r}; expected one of {', '.join(get_args(Ask))}.")
        return request


class AnnotationSession:
    """Pictures with their marks, kept in a file.

    Args:
        pictures: an ExampleSet (its labels are the first marks), a folder, or picture files.
        phrases: to begin with; a person may add more.
        path: JSON file for the marks. A folder of pictures keeps them beside the pictures, in `marks.json`; everything
            else is kept in memory only when no path is given. What an existing file holds goes before other labels.

    Raises:
        ValueError: no picture, one that cannot be read, or a file with marks that do not fit.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (20, 10)).save(folder / "a.png")
        >>> session = AnnotationSession(folder, ["coin"])
        >>> session.annotation.phrases, [picture.image_id for picture in session.annotation.pictures]
        (('coin',), ['a.png'])
    """

    def __init__(
        self,
        pictures: ExampleSet | str | Path | Sequence[str | Path] = (),
        phrases: Iterable[str] = (),
        path: str | Path | None = None,
    ):
        if isinstance(phrases, str):
            raise ValueError(f"phrases is the text {phrases!r}; expected a list such as [{phrases!r}].")
        if isinstance(pictures, str | Path) and path is None:
            path = Path(pictures) / SIDECAR
        self.path = None if path is None else Path(path)
        if isinstance(pictures, ExampleSet):
            fresh = annotation_of(pictures)
            self.images: dict[str, Path | np.ndarray] = {example.image_id: example.image for example in pictures}
        else:
            files = pictures_in(Path(pictures)) if isinstance(pictures, str | Path) else [Path(f) for f in pictures]
            self.images = dict(zip(_ids_of(files), files, strict=True))
            sizes = {image_id: shown_size(file) for image_id, file in zip(self.images, files, strict=True)}
            fresh = Annotation((), tuple(PictureMarks(image_id, *size) for image_id, size in sizes.items()))
        self.request: Request | None = None
        self._changes = _lock_of(self.path)  # a page sends marks while a model answers
        self._annotation = fresh.with_phrases(phrases)
        if self.path is not None and self.path.exists():
            self._annotation = _continued(load_annotation(self.path), self._annotation, self.path)

    @property
    def annotation(self) -> Annotation:
        """All marks. Setting them checks and saves them.

        Raises:
            ValueError: on setting: pictures are missing, unknown or of another size.
        """
        return self._annotation

    @annotation.setter
    def annotation(self, annotation: Annotation) -> None:
        with self._changes:
            _check_pictures(annotation, self._annotation)
            # What Python sets is newer than what any page that is open has sent so far.
            newest = {picture.image_id: picture.revision for picture in self._annotation.pictures}
            pictures = [
                picture
                if picture == self._annotation.picture(picture.image_id)
                else replace(picture, revision=newest[picture.image_id] + 1)
                for picture in annotation.pictures
            ]
            self._annotation = replace(annotation, pictures=tuple(pictures))
            self.save()

    def receive(self, value: Any) -> Annotation:
        """Takes the marks that an interface sent, merges them with what is newer here or on disk, and saves them.

        Raises:
            ValueError: the value has another form, its pictures are not those of the session, or the same picture was
                changed elsewhere too, which then stays.
            OSError: the file cannot be written.
        """
        received = Annotation.from_json(value)
        with self._changes:
            _check_pictures(received, self._annotation)
            self._annotation = merged(self._newest(), received)
            self.save()
            _check_taken(received, self._annotation)
            return self._annotation

    def change(self, edit: Callable[[Annotation], Annotation]) -> None:
        """Sets what `edit` makes of the marks; what is newer on disk is among them, and nothing comes in between.

        Raises:
            ValueError: as on setting `annotation`.
            OSError: the file cannot be read or written.
        """
        with self._changes:
            self._annotation = self._newest()
            self.annotation = edit(self._annotation)

    def _newest(self) -> Annotation:
        """The marks with those that another session wrote to the file since."""
        if self.path is None or not self.path.exists():
            return self._annotation
        return merged(self._annotation, _continued(load_annotation(self.path), self._annotation, self.path))

    def receive_request(self, value: Any) -> Request:
        """Takes a request that an interface sent.

        Raises:
            ValueError: it has another form, or names a picture that is not there.
        """
        request = Request.from_json(value)
        if request.image_id not in self.images:
            raise ValueError(f"received a request for image {request.image_id!r}, which is not in this annotator.")
        self.request = request
        return request

    def propose(self, image_id: str, phrase: str, prediction: Prediction, of: int | None = None) -> None:
        """Offers a model's answer for judging; see `with_proposals`. Marks that a person makes meanwhile stay."""
        with self._changes:
            self._annotation = with_proposals(self._newest(), image_id, phrase, prediction, of)
            self.save()

    def examples(self, name: str = "annotated") -> ExampleSet:
        """The labels that the marks amount to; see `examples_of`."""
        return examples_of(self._annotation, self.images, name)

    def save(self) -> None:
        """Writes the file, if there is one."""
        if self.path is not None:
            save_annotation(self._annotation, self.path)

    @property
    def kept_in(self) -> str:
        """Where the marks are, in words."""
        return f"saved in {self.path.name}" if self.path else "not saved to a file"

    def task(self, *, can_ask: bool = True) -> dict[str, Any]:
        """What an interface needs to know besides the marks: which pictures to show, and whether requests are heard."""
        return {"pictures": list(self.images), "can_ask": can_ask}

    def encoded_picture(self, image_id: str, longest_side_px: int) -> bytes:
        """The picture as JPEG, made smaller where it is larger, for an interface without access to the file.

        Raises:
            ValueError: there is no such picture, or it cannot be read.
        """
        if image_id not in self.images:
            raise ValueError(f"there is no image {image_id!r}; the pictures are {', '.join(self.images) or 'none'}.")
        picture = Image.fromarray(read_picture(self.images[image_id]))
        picture.thumbnail((longest_side_px, longest_side_px))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


def _lock_of(path: Path | None) -> Any:
    """The lock of a file, the same for all sessions that keep their marks there."""
    return threading.RLock() if path is None else _LOCKS.setdefault(path.resolve(), threading.RLock())


def _ids_of(files: Sequence[Path]) -> list[str]:
    """The names of files; with their folders where names repeat."""
    names = [file.name for file in files]
    ids = names if len(set(names)) == len(names) else [file.as_posix() for file in files]
    if len(set(ids)) < len(ids):
        raise ValueError(f"received {next(name for name in ids if ids.count(name) > 1)!r} twice; give each file once.")
    return ids


def _continued(saved: Annotation, fresh: Annotation, path: Path) -> Annotation:
    """What was saved for the pictures that are there, and fresh marks for the others, in the order of the pictures."""
    known = {picture.image_id: picture for picture in saved.pictures}
    phrases = saved.with_phrases(fresh.phrases).phrases
    spelling, pictures = {phrase_key(phrase): phrase for phrase in phrases}, []
    for picture in fresh.pictures:
        old = known.pop(picture.image_id, picture)
        if (old.width, old.height) != (picture.width, picture.height):
            raise ValueError(
                f"{path}: image {picture.image_id!r} was marked at {old.width}x{old.height}, but is "
                f"{picture.width}x{picture.height} now (width x height). Restore the picture, or move the file away."
            )
        pictures.append(replace(old, pairs={spelling[phrase_key(name)]: pair for name, pair in old.pairs.items()}))
    # Marks of pictures that are gone stay in the file: they may come back.
    return Annotation(phrases, (*pictures, *known.values()))


def _check_taken(received: Annotation, kept: Annotation) -> None:
    """Refuses a change of a picture that was changed as often elsewhere, and differently."""
    for picture in received.pictures:
        other = kept.picture(picture.image_id)
        if other.revision == picture.revision and any(
            picture.pair(phrase).judged != other.pair(phrase).judged for phrase in received.phrases
        ):
            raise ValueError(
                f"image {picture.image_id!r} was changed on another page or from Python at the same time; that change "
                "was kept. Load this page anew and repeat yours."
            )


def _check_pictures(annotation: Annotation, expected: Annotation) -> None:
    sizes = [{p.image_id: (p.width, p.height) for p in part.pictures} for part in (annotation, expected)]
    if sizes[0] != sizes[1]:
        different = sorted(set(sizes[0].items()) ^ set(sizes[1].items()))[0]
        raise ValueError(
            f"the marks are of other pictures: {different[0]!r} {different[1]} (width, height) is on one side only. "
            "Start from the annotation of this annotator and change that."
        )
