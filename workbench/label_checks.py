"""What a picture, its masks and its boxes must be, each on its own: plain arrays and files come in, the same values in
their usual types go out, or an error that says what to correct."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sam3.pictures import shown_size

BOX_SLACK_PX = 1e-3  # float32 rounding of a box that ends on the picture's edge


def checked_masks(phrase: str, masks: np.ndarray | None) -> np.ndarray:
    """Masks of one phrase as (N,H,W) bool, each with at least one pixel; (0,0,0) for None.

    Args:
        phrase: for the message.
        masks: (N,H,W) bool or zeros and ones.

    Raises:
        ValueError: another shape, other values, or a mask without a pixel.
    """
    if masks is None:
        return np.zeros((0, 0, 0), bool)
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise ValueError(f"{phrase!r}: masks have shape {masks.shape}; expected (N,H,W). One mask: pass mask[None].")
    if masks.dtype != bool:
        if not np.isin(masks, (0, 1)).all():
            raise ValueError(
                f"{phrase!r}: masks are {masks.dtype} with values {masks.min()}..{masks.max()}; expected bool. "
                "Pass e.g. `masks > 0`."
            )
        masks = masks.astype(bool)
    empty = np.flatnonzero(~masks.any((1, 2)))
    if len(empty):
        raise ValueError(
            f"{phrase!r}: mask {empty[0]} has no pixel; expected at least one. Remove it or label it anew."
        )
    return masks


def checked_boxes(phrase: str, boxes: np.ndarray) -> np.ndarray:
    """Boxes of one phrase as (N,4) float32 pixels x0, y0, x1, y1, each with an area.

    Args:
        phrase: for the message.
        boxes: (N,4), or nothing.

    Raises:
        ValueError: another shape, or a box that is empty or not finite.
    """
    boxes = np.asarray(boxes, np.float32)
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{phrase!r}: boxes have shape {boxes.shape}; expected (N,4) as x0,y0,x1,y1 in pixels.")
    for number, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        if not (x1 > x0 and y1 > y0 and np.isfinite((x0, y0, x1, y1)).all()):
            raise ValueError(
                f"{phrase!r}: box {number} is {[x0, y0, x1, y1]} and has no area; expected x0 < x1 and y0 < y1 in "
                "pixels. If these are x, y, width, height, convert them first; otherwise correct or remove the box."
            )
    return boxes


def check_mask_size(where: str, masks: np.ndarray, size: tuple[int, int]) -> None:
    """Refuses masks (N,H,W) that are not of the picture's size (height, width); `where` opens the message."""
    if masks.shape[1:] != size:
        raise ValueError(
            f"{where}: masks are {masks.shape[1:]} (height, width); expected {size} like the picture. "
            "Resize them with nearest neighbour, or check that the labels belong to this picture."
        )


def check_inside(where: str, boxes_xyxy_px: np.ndarray, size: tuple[int, int]) -> None:
    """Refuses boxes (N,4) that leave a picture of this size (height, width); `where` opens the message."""
    height, width = size
    limit = np.array([width, height] * 2, np.float32) + BOX_SLACK_PX
    outside = np.flatnonzero((boxes_xyxy_px < -BOX_SLACK_PX).any(1) | (boxes_xyxy_px > limit).any(1))
    if len(outside):
        raise ValueError(
            f"{where}: box {boxes_xyxy_px[outside[0]].tolist()} leaves the picture; expected 0..{width} by "
            f"0..{height} pixels. Clip the box, or check unit (pixels, not fractions) and picture."
        )


def check_picture(image_id: str, image: np.ndarray | Path, width: int, height: int) -> None:
    """Refuses a picture that is not what the labels say.

    Args:
        image_id: for the message.
        image: HWC uint8 RGB, or a path (its header is read).
        width, height: stated size in pixels, as shown.

    Raises:
        ValueError: no picture, or one of another size.
    """
    if isinstance(image, Path):
        found = shown_size(image)
        if found != (width, height):
            raise ValueError(_other_size(image_id, image, found, (width, height)))
        return
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(
            f"image {image_id!r}: picture is {kind}; expected a uint8 array (H,W,3) in RGB order or a file path. "
            "Grey pictures: np.stack([grey] * 3, -1)."
        )
    if image.shape[:2] != (height, width) or not image.size:
        raise ValueError(
            f"image {image_id!r}: picture is {image.shape[1]}x{image.shape[0]}, stated size {width}x{height} (width x "
            "height); expected the same, above zero. Pass the array's own size."
        )


def _other_size(image_id: str, path: Path, found: tuple[int, int], stated: tuple[int, int]) -> str:
    text = (
        f"image {image_id!r}: {path} is {found[0]}x{found[1]} as shown, but the labels say {stated[0]}x{stated[1]} "
        "(width x height); expected the same size. "
    )
    if found == stated[::-1]:
        return text + (
            "The sides are swapped: probably the file carries an EXIF rotation that the labelling tool did not apply. "
            "Save the picture without EXIF in the orientation in which it was labelled."
        )
    return text + "Use the picture that was labelled, or resize picture and labels together."
