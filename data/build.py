"""Cut the demo's labelled tiles out of the pictures that ship inside scikit-image, and write them as COCO files.

`python data/build.py` rebuilds `train.json`, `test.json` and `images/` of every set; with `--check` it only compares
what is there with what would be built. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from labels import FINE, LabelMap, label_coins, label_nuclei, label_words
from PIL import Image
from scipy import ndimage as ndi
from skimage import data as pictures

HERE = Path(__file__).resolve().parent
OUTPUT = 224
"""Side of a stored tile in pixels: what the tiny model takes in."""
LEAST_VISIBLE = 0.35
"""An object cut by the tile's border counts from this share of its area on; below, it becomes an ignored region."""
LICENCES = {
    "coins": "No known copyright restrictions (Brooklyn Museum Collection)",
    "page": "None stated for the picture; scikit-image lists its files as BSD-3-Clause",
    "immunohistochemistry": "No known copyright restrictions (Center for Microscopy And Molecular Imaging, CMMI)",
    "gravel": "CC0 1.0 (CC0Textures)",
    "brick": "CC0 1.0 (CC0Textures)",
}


@dataclass(frozen=True)
class Tile:
    """A square of a picture, in the picture's own pixels: `picture` is the name of a function of `skimage.data`."""

    picture: str
    x: int
    y: int
    size: int


@dataclass(frozen=True)
class TileSet:
    """One set of the demo: what is asked for, what is surely absent, and which tiles teach and which judge."""

    name: str
    phrase: str
    absent: tuple[str, ...]
    picture: str
    label: Callable[[np.ndarray], LabelMap]
    train: tuple[Tile, ...]
    test: tuple[Tile, ...]


def _tiles(picture: str, *corners_and_size: tuple[int, int, int]) -> tuple[Tile, ...]:
    return tuple(Tile(picture, x, y, size) for x, y, size in corners_and_size)


def _label_nuclei(picture: np.ndarray) -> LabelMap:
    return label_nuclei(picture, json.loads((HERE / "corrections.json").read_text(encoding="utf-8"))["nuclei"])


SETS = (
    TileSet(
        name="coins",
        phrase="coin",
        absent=("red circle", "striped square", "cross", "button", "key"),
        picture="coins",
        label=label_coins,
        # Two left columns of coins teach (x < 131), the four right ones judge (x >= 132).
        train=_tiles(
            "coins",
            *((6, 30, 116), (0, 158, 131), (0, 86, 131), (24, 0, 100)),
            *((44, 218, 84), (26, 74, 100), (28, 148, 84), (31, 166, 100)),
        )
        + _tiles("gravel", (20, 60, 80), (140, 300, 96)),
        test=_tiles(
            "coins",
            *((180, 24, 120), (132, 106, 112), (248, 96, 120), (136, 172, 112), (270, 176, 112)),
            *((134, 0, 104), (272, 0, 96), (202, 174, 112), (242, 30, 120), (132, 48, 112)),
        )
        + _tiles("gravel", (300, 40, 80), (400, 200, 96), (330, 380, 72)),
    ),
    TileSet(
        name="words",
        phrase="word",
        absent=("handwritten word", "digit", "red square", "star", "heart"),
        picture="page",
        label=label_words,
        # The heading and the first two lines teach (y < 84), the next three lines judge (y >= 84).
        train=_tiles(
            "page",
            *((292, 0, 84), (4, 0, 84), (194, 0, 84), (88, 38, 44)),
            *((232, 0, 84), (160, 0, 84), (0, 34, 48), (328, 34, 48)),
            (298, 0, 46),
        )
        + _tiles("brick", (40, 60, 128)),
        test=_tiles(
            "page",
            *((125, 84, 52), (6, 84, 80), (296, 84, 80), (178, 86, 60), (88, 102, 64)),
            *((254, 86, 80), (208, 102, 64), (120, 104, 56), (336, 98, 48), (40, 102, 64)),
            *((196, 121, 44), (338, 116, 46)),
        )
        + _tiles("brick", (330, 250, 128)),
    ),
    TileSet(
        name="nuclei",
        phrase="nucleus",
        absent=("brown nucleus", "neuron", "bacterium", "green circle", "star"),
        picture="immunohistochemistry",
        label=_label_nuclei,
        # The stroma below the three glands teaches (y >= 316), the stroma between them judges (y < 316).
        train=_tiles(
            "immunohistochemistry",
            *((168, 348, 64), (202, 460, 48), (168, 414, 60), (188, 316, 56), (202, 368, 44)),
            *((158, 318, 52), (202, 414, 44), (162, 390, 44), (176, 436, 44)),
            (2, 338, 44),
        ),
        test=_tiles(
            "immunohistochemistry",
            *((204, 266, 48), (252, 248, 52), (304, 262, 44), (100, 240, 44), (172, 264, 44)),
            *((270, 220, 44), (220, 246, 56), (128, 266, 48), (280, 236, 48), (118, 244, 48)),
            *((430, 402, 36), (0, 425, 38)),
        ),
    ),
)


@cache
def load_picture(name: str) -> np.ndarray:
    """Return a picture of `skimage.data`, (H, W) or (H, W, 3) uint8."""
    return getattr(pictures, name)()


def cut_picture(tile: Tile) -> Image.Image:
    """Return the tile enlarged to OUTPUT x OUTPUT; it is cut first, so no pixel outside it has a say."""
    crop = load_picture(tile.picture)[tile.y : tile.y + tile.size, tile.x : tile.x + tile.size]
    return Image.fromarray(crop).resize((OUTPUT, OUTPUT), Image.Resampling.BICUBIC)


def cut_labels(labels: np.ndarray, tile: Tile) -> np.ndarray:
    """Return the tile's labels, (OUTPUT, OUTPUT), each pixel taking the nearest value of the finer label map."""
    step = tile.size * FINE / OUTPUT
    nearest = ((np.arange(OUTPUT) + 0.5) * step).astype(int)
    return labels[np.ix_(tile.y * FINE + nearest, tile.x * FINE + nearest)]


def annotations_of(tile: Tile, labels: LabelMap) -> Iterator[dict[str, Any]]:
    """Yield the tile's annotations without their ids: objects in the order of their number, then ignored regions."""
    objects = cut_labels(labels.objects, tile)
    window = (slice(tile.y * FINE, (tile.y + tile.size) * FINE), slice(tile.x * FINE, (tile.x + tile.size) * FINE))
    window_areas = np.bincount(labels.objects[window].ravel(), minlength=labels.objects.max() + 1)
    areas = np.bincount(labels.objects.ravel())
    ignored: list[tuple[np.ndarray, int | None]] = []
    for number in np.unique(objects[objects > 0]).tolist():
        if window_areas[number] >= LEAST_VISIBLE * areas[number]:
            yield {**_shape(objects == number), "iscrowd": 0, "source_object": number}
        else:
            ignored.append((objects == number, number))
    doubtful, num_doubtful = ndi.label(cut_labels(labels.doubtful, tile))
    ignored.extend((doubtful == number, None) for number in range(1, num_doubtful + 1))
    for mask, source_object in ignored:
        yield {**_shape(mask), "iscrowd": 1, "source_object": source_object}


def _shape(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    return {
        "segmentation": {"size": [int(side) for side in mask.shape], "counts": rle["counts"].decode("ascii")},
        "bbox": [int(value) for value in box],
        "area": int(mask.sum()),
    }


def build_split(tile_set: TileSet, split: str, labels: LabelMap) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """Return one split as a COCO dictionary and its pictures by file name."""
    tiles: tuple[Tile, ...] = getattr(tile_set, split)
    licences = sorted({LICENCES[tile.picture] for tile in tiles})
    coco: dict[str, Any] = {
        "info": {
            "description": f"{tile_set.name}, {split}: every category was looked for in every image, so one without "
            "annotations is absent. source: the tile's square in the picture skimage.data.<picture>(), in its pixels.",
        },
        "licenses": [{"id": index, "name": name} for index, name in enumerate(licences, start=1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate((tile_set.phrase, *tile_set.absent), start=1)],
        "images": [],
        "annotations": [],
    }
    images: dict[str, Image.Image] = {}
    for image_id, tile in enumerate(tiles, start=1):
        file_name = f"{split}_{image_id:02d}.png"
        images[file_name] = cut_picture(tile)
        source = {"picture": tile.picture, "x": tile.x, "y": tile.y, "width": tile.size, "height": tile.size}
        coco["images"].append(
            {
                "id": image_id,
                "file_name": file_name,
                "width": OUTPUT,
                "height": OUTPUT,
                "license": licences.index(LICENCES[tile.picture]) + 1,
                "source": {**source, "scale": OUTPUT / tile.size},
            }
        )
        if tile.picture != tile_set.picture:
            continue  # a picture of something else: none of the objects asked for
        for annotation in annotations_of(tile, labels):
            ids = {"id": len(coco["annotations"]) + 1, "image_id": image_id, "category_id": 1}
            coco["annotations"].append({**ids, **annotation})
    return coco, images


def build_set(tile_set: TileSet, root: Path, *, check: bool) -> list[str]:
    """Write one set below `root`, or with `check` only compare.

    Returns:
        One line per file that is missing or differs (always empty without `check`).
    """
    labels = tile_set.label(load_picture(tile_set.picture))
    folder = root / tile_set.name
    problems: list[str] = []
    if not check:
        (folder / "images").mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        coco, images = build_split(tile_set, split, labels)
        path = folder / f"{split}.json"
        if not check:
            path.write_text(json.dumps(coco, indent=1) + "\n", encoding="utf-8")
        elif not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != coco:
            problems.append(f"{path}: missing or different")
        for name, image in images.items():
            path = folder / "images" / name
            if not check:
                image.save(path, optimize=True)
            elif not path.is_file() or not np.array_equal(np.asarray(Image.open(path)), np.asarray(image)):
                problems.append(f"{path}: missing or different pixels")
    return problems


def main() -> int:
    """Build or check every set and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; list what differs")
    parser.add_argument("--out", type=Path, default=HERE, help="folder that holds the sets (default: %(default)s)")
    options = parser.parse_args()
    problems = [line for tile_set in SETS for line in build_set(tile_set, options.out, check=options.check)]
    print("\n".join(problems) if problems else f"{'checked' if options.check else 'wrote'} {len(SETS)} sets")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
