"""Hard use of the app with its real limits: what is broken, huge, hostile or strangely named is refused or taken, in
words; nothing is lost, and the server lives."""

from __future__ import annotations

import errno
import json
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from apps.limits import Limits, unpack
from apps.page import build_app, launch

QUICK = "train.images=1\ntrain.phrases=1\ntrain.views=1\nguard.scenes=0\nguard.replay=0"
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
    "categories": [{"id": 1, "name": "Münze 図"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 10, 10], "area": 100, "iscrowd": 0}],
}


class Visitor:
    def __init__(self, address: str, code: str):
        self.client, self.code = Client(address, verbose=False), code

    def __call__(self, name: str, *values: Any) -> Any:
        return self.client.predict(self.code, *values, api_name=f"/{name}")

    def bring(self, *files: Path) -> str:
        return str(self("label_upload", [handle_file(str(file)) for file in files], 0)[0])

    def refused(self, name: str, *values: Any) -> str:
        """The words of a refusal."""
        with pytest.raises(AppError) as caught:
            self(name, *values)
        words = str(caught.value)
        assert "Traceback" not in words and "/tmp/" not in words and "Something went wrong" not in words
        return words

    def pictures(self) -> list[str]:
        return [entry["id"] for entry in self("label_marks").get("pictures", [])]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    blocks = build_app(tmp_path_factory.mktemp("app"))
    yield launch(blocks, prevent_thread_lock=True)
    blocks.close()


@pytest.fixture(scope="module")
def enter(address: str) -> Callable[[str], Visitor]:
    return lambda code: Visitor(address, code)


def picture(path: Path, side: int = 64) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def header_only(path: Path, side: int) -> Path:
    """A PNG that says how large it is and holds next to nothing of it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))  # black and white
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b""))
    return path


def archive(path: Path, **files: bytes | str) -> Path:
    """A zip of the files, in whose names `__` stands for a dot."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name.replace("__", "."), content)
    return path


# ------------------------------------------------------------------------------------------------------------- pictures
def test_a_picture_that_ends_too_early_is_refused_before_anybody_labels_it(enter, tmp_path):
    """Its header is right: only reading it to its end tells."""
    visitor, whole, half = enter("half-pictures-01"), picture(tmp_path / "ganz.jpg", 400), tmp_path / "halb.jpg"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(deep)
    files = [handle_file(str(file)) for file in (whole, half)]
    words = visitor.refused("label_upload", files, 0)
    assert "halb.jpg cannot be read" in words and "truncated" in words and "Save it anew or remove it" in words
    assert "8 bits per channel" in visitor.refused("label_upload", [handle_file(str(deep))], 0)
    assert visitor.pictures() == []  # the whole one came with the broken one: all or none
    assert "1 picture was added" in visitor.bring(whole)
    archived = archive(tmp_path / "half.zip", a__png=picture(tmp_path / "a.png").read_bytes(), b__jpg=half.read_bytes())
    assert "b.jpg cannot be read" in visitor.refused("label_upload", [handle_file(str(archived))], 0)
    assert visitor.pictures() == ["ganz.jpg"]


def test_of_a_picture_with_pages_the_first_is_taken_and_that_is_said(enter, tmp_path):
    visitor, pages = enter("many-pages-00001"), [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "zwei.tif", save_all=True, append_images=pages[1:])
    words = visitor.bring(tmp_path / "zwei.tif", picture(tmp_path / "a.png"))
    assert "2 pictures were added. Only the first page was taken of zwei.tif." in words


@pytest.mark.parametrize(("side", "words"), [(10_000, "100 megapixels; 40 are allowed"), (20_000, "far more than")])
def test_huge_pictures_are_refused_by_their_headers_in_every_tab(enter, tmp_path, side, words):
    visitor, large = enter("huge-pictures-01"), header_only(tmp_path / "riesig.png", side)
    start = time.monotonic()
    assert words in visitor.refused("label_upload", [handle_file(str(large))], 0)
    assert words in visitor.refused("segment", "tiny", handle_file(str(large)), "star", "", 0.5)
    zipped = archive(tmp_path / "riesig.zip", riesig__png=large.read_bytes())
    assert words in visitor.refused("label_upload", [handle_file(str(zipped))], 0)
    assert time.monotonic() - start < 60 and visitor.pictures() == []


# ------------------------------------------------------------------------------------------------------------- archives
def test_archives_with_damage_or_impossible_names_are_refused_in_words(enter, tmp_path):
    visitor, content = enter("bad-archives-001"), picture(tmp_path / "a.png").read_bytes()
    damaged = archive(tmp_path / "damaged.zip", a__png=bytes(range(256)) * 1000)
    hurt = bytearray(damaged.read_bytes())
    hurt[60:120] = b"\xff" * 60
    damaged.write_bytes(hurt)
    long = archive(tmp_path / "long.zip", **{"x" * 300 + ".png": content})
    clash = archive(tmp_path / "clash.zip", **{"a.png": content, "a.png/b.png": content})
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened, opened.open("a.png", "w") as file:
        for _ in range(301):
            file.write(bytes(1_000_000))
    crowd = archive(tmp_path / "crowd.zip", **{f"{number}.png": b"" for number in range(501)})
    for file, words in (
        (damaged, "cannot be unpacked"),
        (long, "short, plain names"),
        (clash, "short, plain names"),
        (tmp_path / "bomb.zip", "unpacks to more than 300 MB"),
        (crowd, "holds 501 files; 500 are allowed"),
        (archive(tmp_path / "up.zip", **{"../../a.png": content}), "leads out of its folder"),
        (archive(tmp_path / "root.zip", **{"/etc/a.png": content}), "leads out of its folder"),
        (archive(tmp_path / "windows.zip", **{"..\\..\\a.png": content}), "leads out of its folder"),
    ):
        assert words in visitor.refused("label_upload", [handle_file(str(file))], 0), file
    assert visitor.pictures() == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), r"\(No space left on device\)\. Try again later\."),
        (OSError("the disk is gone"), r"\(the disk is gone\)\. Try"),
        (OSError(), r"\(OSError\)\. Try"),
        (OSError(errno.EILSEQ, os.strerror(errno.EILSEQ)), r"byte sequence|multibyte.*short, plain names"),
    ],
)
def test_names_are_blamed_only_where_they_are_to_blame(monkeypatch, tmp_path, error, words):
    file = archive(tmp_path / "full.zip", a__png=b"content")

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("apps.limits._copy", fail)
    with pytest.raises(ValueError, match=words) as caught:
        unpack(file, tmp_path / "out", Limits())
    assert ("plain names" in str(caught.value)) == (error.errno == errno.EILSEQ) and "None" not in str(caught.value)


def test_a_wrong_coco_file_says_which_archive_what_is_wrong_and_what_to_do(enter, tmp_path):
    visitor, content = enter("wrong-labels-001"), picture(tmp_path / "a.png").read_bytes()
    wrong_size = {**COCO, "images": [{**COCO["images"][0], "width": 640}]}
    wrong_name = {**COCO, "images": [{**COCO["images"][0], "file_name": "b.png"}]}
    for labels, words in (
        ("{nope", "maße.zip holds no COCO file"),
        ('{"hello": 1}', "maße.zip holds no COCO file"),
        (json.dumps(wrong_size), "64x64 as shown, but the labels say 640x64"),
        (json.dumps(wrong_name), "picture 'b.png' was looked for"),
    ):
        file = archive(tmp_path / "maße.zip", a__png=content, labels__json=labels)
        said = visitor.refused("label_upload", [handle_file(str(file))], 0)
        assert words in said and "pictures then come without labels" in said, said
    assert visitor.pictures() == []


def test_labels_that_are_mended_on_the_way_in_are_named(enter, tmp_path):
    """A box far too large is clipped, and the visitor is told; one folder around everything does no harm."""
    visitor, content = enter("mended-labels-01"), picture(tmp_path / "a.png").read_bytes()
    large = {**COCO, "annotations": [{**COCO["annotations"][0], "bbox": [4, 4, 900, 900]}]}
    files = {"Größe/images/a.png": content, "Größe/annotations/all.json": json.dumps(large)}
    words = visitor.bring(archive(tmp_path / "boxes.zip", **files))
    assert "1 picture was added" in words and "box clipped (1 finding)" in words and "Münze 図" in words
    (entry,) = visitor("label_marks")["pictures"]
    assert entry["pairs"]["Münze 図"]["marks"][0]["box"] == [4, 4, 64, 64]
    again = {**COCO, "categories": [{"id": 1, "name": "münze 図"}]}
    visitor.bring(archive(tmp_path / "more.zip", a__png=content, labels__json=json.dumps(again)))
    assert visitor("label_marks")["phrases"] == ["Münze 図"] and visitor.pictures() == ["a-2.png", "a.png"]


# ---------------------------------------------------------------------------------------------------------------- clips
def test_ten_minutes_of_video_are_refused_before_a_frame_is_read(enter, tmp_path):
    import av

    visitor, clip = enter("long-clips-00001"), tmp_path / "zehn minuten 図.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8), format="rgb24")
        for _ in range(6000):
            frame.pts = None
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    start = time.monotonic()
    words = visitor.refused("video_follow", "tiny", handle_file(str(clip)), "red circle", 40, True)
    assert "6000 frames; 120 are allowed" in words and "Cut out the part that matters" in words
    assert time.monotonic() - start < 30


# ------------------------------------------------------------------------------------------------------- names, phrases
def test_names_and_phrases_of_any_script_go_all_the_way_to_an_adapter(enter, repo_root, tmp_path):
    """The client that began the training is gone before its end; another one of the same visitor finds everything."""
    visitor, phrase = enter("any-script-00001"), "Münze 図 🙂"
    for number in range(1, 4):
        source = repo_root / f"data/coins/images/train_0{number}.png"
        (tmp_path / f"Bild № {number} 図.png").write_bytes(source.read_bytes())
    visitor.bring(*sorted(tmp_path.iterdir()))
    marks = visitor("label_marks")
    for entry in marks["pictures"]:
        mark = {"id": 1, "kind": "box", "positive": True, "status": "kept", "source": "person", "box": [5, 5, 60, 60]}
        entry["pairs"] = {phrase: {"state": "present", "exhaustive": True, "marks": [mark]}}
        entry["revision"] = 1
    assert "3 of 3" in visitor("label_set", {**marks, "phrases": [phrase]})
    with zipfile.ZipFile(visitor("label_download")) as opened:
        labels = json.loads(opened.read("labels.json"))
        assert set(opened.namelist()) >= {f"images/{image['file_name']}" for image in labels["images"]}
    assert labels["categories"][0]["name"] == phrase and labels["images"][0]["image_id"] == "Bild_1_図.png"
    settings = ("my labelled pictures", "Übung 図", "decoder", 5, 1, "ключ", QUICK)
    run = visitor("adapt_start", "tiny", *settings)[0]["value"]
    visitor.client.close()

    later, end = enter("any-script-00001"), time.monotonic() + 300
    while (shot := later("adapt_status", run))["is_running"] and time.monotonic() < end:
        time.sleep(0.5)
    assert shot["is_finished"] and shot["error"] is None and run == "Übung_図", shot
    pairs, *_ = later("compare_show", run)
    assert any(phrase in title for title, _ in pairs["choices"])
    *_, words = later("segment", f"tiny + {run}", handle_file(str(tmp_path / "Bild № 1 図.png")), phrase, "", 0.5)
    assert f"× {phrase}" in words
    assert Path(later("compare_adapter", run)).name == f"{run}_adapter.zip"
