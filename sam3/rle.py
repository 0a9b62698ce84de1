"""Masks as COCO run lengths (RLE): a few hundred bytes in place of a byte per pixel.

Runs go down the columns, from left to right, and begin with pixels outside the mask; the text form is COCO's. Boxes and
areas are read from the runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rle:
    """A mask as run lengths.

    Attributes:
        size: (H, W) of the mask in pixels.
        counts: the run lengths in COCO's text form.

    Example:
        >>> mask = np.zeros((4, 5), dtype=bool)
        >>> mask[1:3, 2:5] = True
        >>> rle = Rle.of(mask)
        >>> rle, rle.area, rle.box_xyxy_px
        (Rle(size=(4, 5), counts='922000O'), 6, (2, 1, 5, 3))
        >>> bool((rle.mask() == mask).all())
        True
    """

    size: tuple[int, int]
    counts: str

    @staticmethod
    def of(mask: NDArray[np.bool_]) -> Rle:
        """The run lengths of a mask (H,W) bool."""
        if mask.ndim != 2:
            raise ValueError(f"mask has shape {mask.shape}; expected (H,W). Encode one mask at a time.")
        pixels = np.asarray(mask, dtype=bool).ravel(order="F")
        changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        starts = np.concatenate([[0, 0] if pixels[:1].any() else [0], changes, [len(pixels)]])
        return Rle((mask.shape[0], mask.shape[1]), _to_text(np.diff(starts)))

    @staticmethod
    def of_runs(size: tuple[int, int], runs: list[int]) -> Rle:
        """The same from plain run lengths, of which the first counts pixels outside the mask."""
        return Rle((int(size[0]), int(size[1])), _to_text(np.asarray(runs, dtype=np.int64)))

    @staticmethod
    def from_json(entry: Any) -> Rle:
        """Run lengths as COCO files hold them, {"size": [H, W], "counts": text or list of numbers}.

        Raises:
            ValueError: the entry is no run lengths, or they do not add up to the size.
        """
        try:
            height, width = (int(side) for side in entry["size"])
            counts = entry["counts"]
            if isinstance(counts, list | tuple):
                rle = Rle.of_runs((height, width), list(counts))
            else:
                rle = Rle((height, width), counts if isinstance(counts, str) else counts.decode("ascii"))
            rle._runs()  # checks them
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(
                f"run lengths cannot be decoded ({error}); expected size [height, width] and counts that add up to it. "
                "Export the masks anew."
            ) from error
        return rle

    def to_json(self) -> dict[str, Any]:
        """{"size": [H, W], "counts": text}, as COCO files hold it."""
        return {"size": list(self.size), "counts": self.counts}

    def mask(self) -> NDArray[np.bool_]:
        """(H,W) bool."""
        runs = self._runs()
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(self.size[::-1]).T

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self._runs()[1::2].sum())

    @property
    def box_xyxy_px(self) -> tuple[int, int, int, int]:
        """The tight box, right and lower end exclusive; zeros for an empty mask."""
        runs, height = self._runs(), self.size[0]
        ends = np.cumsum(runs)[1::2]
        starts, ends = ends - runs[1::2], ends[runs[1::2] > 0]
        starts = starts[runs[1::2] > 0]
        if not len(ends):
            return 0, 0, 0, 0
        left, right = starts // height, (ends - 1) // height
        if (right > left).any():  # a run that goes on in the next column touches the lower and the upper edge
            top, bottom = 0, height
        else:
            top, bottom = int((starts % height).min()), int(((ends - 1) % height).max()) + 1
        return int(left[0]), top, int(right[-1]) + 1, bottom

    def _runs(self) -> NDArray[np.int64]:
        runs = _from_text(self.counts)
        height, width = self.size
        if (runs < 0).any() or int(runs.sum()) != height * width:
            raise ValueError(f"runs add up to {int(runs.sum())} pixels, the size {height}x{width} to {height * width}")
        return runs


# COCO's text form: from the fourth run on, the difference to the run two before is written. A number is cut into groups
# of five bits, lowest first, each as one letter from "0" on; a sixth bit says that more follow. The number is signed.


def _to_text(runs: NDArray[np.int64]) -> str:
    values = runs.copy()
    values[3:] -= runs[1:-2]
    letters, used, goes_on = [], [], np.ones(len(values), dtype=bool)
    while goes_on.any():
        used.append(goes_on)
        group, values = values & 31, values >> 5
        goes_on = goes_on & (values != np.where(group & 16, -1, 0))
        letters.append(group + 32 * goes_on + 48)
    return np.stack(letters, axis=1)[np.stack(used, axis=1)].astype(np.uint8).tobytes().decode("ascii")


def _from_text(text: str) -> NDArray[np.int64]:
    letters = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    is_last = (letters & 32) == 0
    if not len(letters) or not is_last[-1] or letters.min() < 0 or letters.max() > 63:
        raise ValueError(f"{text[:20]!r} is not COCO's text form of run lengths")
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    place = np.arange(len(letters)) - np.repeat(starts, np.diff(np.append(starts, len(letters))))
    if place.max() > 11:
        raise ValueError(f"a run of {int(place.max()) + 1} letters is longer than any mask")
    values = np.add.reduceat((letters & 31) << 5 * place, starts)
    is_negative = (letters[is_last] & 16) > 0
    values -= is_negative.astype(np.int64) << 5 * (place[is_last] + 1)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
