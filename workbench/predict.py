"""Answers about one picture as files: an overlay per question, and a COCO file that can be corrected and learnt."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam3.files import write_atomically, write_text
from sam3.pictures import read_picture
from sam3.predictor import ImagePredictor, Prediction
from sam3.prompts import Prompt
from workbench.calibrated_predictor import CalibratedPredictor
from workbench.formats import rle_of
from workbench.paint import overlay


def predict_picture(
    predictor: ImagePredictor | CalibratedPredictor, image: str | Path, prompts: Sequence[Prompt], out: str | Path
) -> list[Prediction]:
    """Asks about a picture and writes the answers.

    Args:
        predictor: with the threshold that is wanted.
        image: a picture file.
        prompts: what to ask, with exemplars in pixels of the picture.
        out: folder for `predictions.json` and one PNG per prompt, named by its number and phrase.

    Returns:
        One prediction per prompt.

    Raises:
        ValueError: the picture cannot be read, or an exemplar lies outside of it.
        OSError: the folder cannot be written.
    """
    image, out = Path(image), Path(out)
    pixels = read_picture(image)
    for prompt in prompts:
        _check_inside(prompt, pixels.shape[1], pixels.shape[0])
    predictor.set_image(pixels)
    answers = predictor.predict(list(prompts))
    for number, answer in enumerate(answers, start=1):
        drawn = Image.fromarray(overlay(pixels, answer.masks, scores=answer.scores.tolist()))
        write_atomically(out / _file_name(number, answer), partial(drawn.save, format="PNG"))
    write_text(out / "predictions.json", json.dumps(to_coco(image.name, answers), ensure_ascii=False))
    return answers


def to_coco(file_name: str, answers: Sequence[Prediction]) -> dict[str, Any]:
    """The answers in the form of a COCO annotation file: a category per phrase, an annotation with score per object.

    Args:
        file_name: of the picture.
        answers: about that picture, at least one.
    """
    height, width = answers[0].image_size
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "categories": [
            {"id": number, "name": _name(answer), "presence_score": round(answer.presence_score, 4)}
            for number, answer in enumerate(answers, start=1)
        ],
        "annotations": [],
    }
    for category, answer in enumerate(answers, start=1):
        for found in objects_of(answer):
            number = len(content["annotations"]) + 1
            content["annotations"].append({"id": number, "image_id": 1, "category_id": category, **found})
    return content


def objects_of(answer: Prediction) -> list[dict[str, Any]]:
    """The objects of an answer, best first, in COCO's words: score, bbox (x, y, width, height), area, segmentation."""
    return [
        {
            "score": round(score, 4),
            "bbox": [round(value, 2) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": rle_of(mask),
        }
        for box, mask, score in zip(answer.boxes_xyxy_px.tolist(), answer.masks, answer.scores.tolist(), strict=True)
    ]


def _name(answer: Prediction) -> str:
    return answer.phrase or "visual"


def _file_name(number: int, answer: Prediction) -> str:
    words = re.sub(r"\W+", "_", _name(answer)).strip("_")[:60]
    return f"{number:02d}_{words}.png"


def _check_inside(prompt: Prompt, width: int, height: int) -> None:
    points = np.concatenate(
        [np.reshape(prompt.exemplar_boxes_xyxy_px, (-1, 2)), np.reshape(prompt.exemplar_points_xy_px, (-1, 2))]
    )
    outside = (points < 0).any(1) | (points > [width, height]).any(1)
    if outside.any():
        raise ValueError(
            f"the exemplar corner or point {points[outside][0].tolist()} lies outside of the picture; expected pixels "
            f"within 0..{width} (x) and 0..{height} (y)"
        )
