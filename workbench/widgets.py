"""Annotator and player for notebooks. They report what a person did and asked for, and never act on it themselves.

Both can be made and used without a browser, and without the package `anywidget` until they are displayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.annotation import Annotation
from workbench.annotation_session import AnnotationSession, Request
from workbench.examples import ExampleSet
from workbench.interface_files import script_of, style
from workbench.playback import checked_playback, checked_video, load_playback

if TYPE_CHECKING:
    from sam3.predictor import Prediction

_SIDE_PX = {True: 132, False: 2048}  # of the pictures that travel: small ones of the strip, and the one that is marked


class Annotator:
    """A notebook's annotator: the last line of a cell shows it, later cells read what was marked.

    Args:
        pictures: an ExampleSet (its labels are the first marks), a folder, or picture files.
        phrases: to begin with; a person may add more.
        path: JSON file in which the marks are kept; `marks.json` in the folder when a folder is given.

    Raises:
        ValueError: no picture, one that cannot be read, or a file with marks that do not fit.

    Example:
        >>> import tempfile, PIL.Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> PIL.Image.new("RGB", (20, 10)).save(folder / "a.png")
        >>> annotator = Annotator(folder, ["coin"])
        >>> [example.image_id for example in annotator.examples()]
        ['a.png']
    """

    def __init__(
        self,
        pictures: ExampleSet | str | Path | Sequence[str | Path] = (),
        phrases: Iterable[str] = (),
        path: str | Path | None = None,
    ):
        self.session = AnnotationSession(pictures, phrases, path)
        self._callbacks: list[Callable[[Request], object]] = []
        self._widget: Any = None
        self._is_taking = False

    @property
    def annotation(self) -> Annotation:
        """All marks. Setting them checks them, saves them and redraws."""
        return self.session.annotation

    @annotation.setter
    def annotation(self, annotation: Annotation) -> None:
        self.session.annotation = annotation
        self._show()

    @property
    def images(self) -> dict[str, Any]:
        """image_id to file or array."""
        return self.session.images

    @property
    def request(self) -> Request | None:
        """What the person asked for last; None before the first time."""
        return self.session.request

    def on_request(self, callback: Callable[[Request], object]) -> None:
        """Calls `callback` with every further request; `annotation_answers.answer_request` answers one with a model."""
        self._callbacks.append(callback)

    def propose(self, image_id: str, phrase: str, prediction: Prediction, of: int | None = None) -> None:
        """Shows a model's answer as proposals that the person accepts or rejects, one by one; see `with_proposals`."""
        self.session.propose(image_id, phrase, prediction, of)
        self._show()
        count = len(self.annotation.picture(image_id).pair(phrase).proposals)
        self._note(f"{count} proposed for “{phrase}”" if count else f"nothing new was found for “{phrase}”")

    def examples(self, name: str = "annotated") -> ExampleSet:
        """The labels that the marks amount to; pairs that nobody finished are "unknown"."""
        return self.session.examples(name)

    @property
    def widget(self) -> Any:
        """The `anywidget.AnyWidget` that is displayed.

        Raises:
            ImportError: the package `anywidget` is not installed.
        """
        if self._widget is None:
            value = self.session.annotation.to_json()
            self._widget = _annotator_class()(task=self.session.task(), value=value)
            self._widget.observe(self._take, "value")
            self._widget.observe(self._take_request, "request")
            self._widget.on_msg(self._send_picture)
        return self._widget

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def _show(self) -> None:
        if self._widget is not None:
            self._is_taking = True
            try:
                self._widget.value = self.session.annotation.to_json()
            finally:
                self._is_taking = False

    def _take(self, change: Any) -> None:
        if self._is_taking:
            return
        try:
            kept = self.session.receive(change["new"])
        except (ValueError, OSError) as error:
            self._note(str(error), is_error=True)
            return
        self._note(self.session.kept_in)
        if kept.to_json() != change["new"]:
            self._show()

    def _take_request(self, change: Any) -> None:
        try:
            request = self.session.receive_request(change["new"])
        except ValueError as error:
            self._note(str(error), is_error=True)
            return
        for callback in self._callbacks:
            try:
                callback(request)
            except Exception as error:
                self._note(f"no answer: {error}", is_error=True)  # nobody sees what is raised in a callback
                raise

    def _note(self, text: str, *, is_error: bool = False) -> None:
        if self._widget is not None:
            self._widget.note = {"text": text, "is_error": is_error}

    def _send_picture(self, widget: Any, wish: Any, buffers: Any) -> None:
        try:
            encoded = self.session.encoded_picture(wish["picture"], _SIDE_PX[bool(wish.get("is_small"))])
        except (ValueError, OSError) as error:
            widget.send({"number": wish["number"], "error": str(error)})
            return
        widget.send({"number": wish["number"]}, [encoded])


class MaskletPlayer:
    """A notebook's player: a video with its objects, before and after, exactly on the frame that is shown.

    Args:
        data: what `player_data` gave, or the path of the JSON file it was written to.
        video: the plain mp4; the one that the file names when left out.

    Raises:
        ValueError: data of another form, or no such video.
    """

    def __init__(self, data: dict[str, Any] | str | Path, video: str | Path | None = None):
        if isinstance(data, str | Path):
            self.data, named = load_playback(data)
            self.video = named if video is None else checked_video(video)
        else:
            self.data = checked_playback(data)
            self.video = checked_video(data["video"] if video is None else video)
        self._shown = {"frame": 0, "side": max(0, len(self.data["sides"]) - 1), "hidden": []}
        self._widget: Any = None

    @property
    def frame(self) -> int:
        """The frame that is shown. Setting it seeks.

        Raises:
            ValueError: on setting: the video has no such frame.
        """
        return int(self._state["frame"])

    @frame.setter
    def frame(self, frame: int) -> None:
        if not 0 <= frame < self.data["num_frames"]:
            raise ValueError(f"received frame {frame}; the video has frames 0..{self.data['num_frames'] - 1}.")
        self._shown = {**self._state, "frame": int(frame)}
        if self._widget is not None:
            self._widget.shown = self._shown

    @property
    def side(self) -> str:
        """The title of the answer that is shown, such as "before"."""
        return str(self.data["sides"][self._state["side"]]["title"])

    @property
    def hidden_ids(self) -> tuple[int, ...]:
        """The objects that were switched off."""
        return tuple(self._state["hidden"])

    @property
    def _state(self) -> dict[str, Any]:
        return self._shown if self._widget is None else self._widget.shown

    @property
    def widget(self) -> Any:
        """The `anywidget.AnyWidget` that is displayed.

        Raises:
            ImportError: the package `anywidget` is not installed.
        """
        if self._widget is None:
            self._widget = _player_class()(data=self.data, shown=self._shown)
            self._widget.on_msg(self._send_video)
        return self._widget

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def _send_video(self, widget: Any, wish: Any, buffers: Any) -> None:
        try:
            widget.send({"number": wish["number"]}, [self.video.read_bytes()])
        except OSError as error:
            widget.send({"number": wish["number"], "error": str(error)})


def _base() -> Any:
    try:
        import anywidget
    except ImportError as error:
        raise ImportError(
            "displaying needs the package anywidget, which is not installed; pip install 'sam3-workbench[notebooks]'"
        ) from error
    return anywidget.AnyWidget


@cache
def _annotator_class() -> Any:
    base = _base()
    import traitlets

    class AnnotatorWidget(base):  # type: ignore[misc, valid-type]
        _esm = script_of("notebook_annotator")
        _css = style()
        task = traitlets.Dict().tag(sync=True)
        value = traitlets.Dict().tag(sync=True)
        request = traitlets.Dict().tag(sync=True)
        note = traitlets.Dict().tag(sync=True)

    return AnnotatorWidget


@cache
def _player_class() -> Any:
    base = _base()
    import traitlets

    class PlayerWidget(base):  # type: ignore[misc, valid-type]
        _esm = script_of("notebook_player")
        _css = style()
        data = traitlets.Dict().tag(sync=True)
        shown = traitlets.Dict().tag(sync=True)

    return PlayerWidget
