"""The card of a data set: a README.md with the front matter the Hugging Face hub reads, the counts, the phrases, the
licence and where the data come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from workbench.examples import ExampleSet

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class CardTexts:
    """What only the owner of the data can say.

    Args:
        title: of the card.
        licence: identifier as the hub knows it, such as "cc-by-4.0"; "unknown" until somebody looked it up.
        provenance: where pictures and labels come from and how they were made.
    """

    title: str = "Labelled pictures"
    licence: str = "unknown"
    provenance: str = "Not stated. Say here who made the pictures and the labels, and how."


def dataset_card(sets: Sequence[ExampleSet], names: Sequence[str], texts: CardTexts) -> str:
    """The card as Markdown.

    Args:
        sets: one per split.
        names: of the splits' files in `data/`.
        texts: title, licence, provenance.
    """
    count = sum(len(examples) for examples in sets)
    front = {
        "license": texts.licence,
        "task_categories": ["object-detection", "image-segmentation"],
        "size_categories": [next((size for limit, size in _SIZES if count < limit), "n>1M")],
        "tags": ["concept-segmentation", "open-vocabulary"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in names],
            }
        ],
    }
    unknown_licence = texts.licence == "unknown"
    warning = "\n\nNobody has stated a licence yet: find it out before passing the data on." if unknown_licence else ""
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
            f"# {texts.title}\n",
            *_counts(sets, names),
            "## Fields\n",
            "- `image`, `image_id`, `width`, `height`: the picture and its size in pixels",
            "- `concepts`: for each phrase its `status`; `boxes` as x0, y0, x1, y1 in pixels, ends exclusive; `masks`",
            "  as COCO run lengths, none for objects of which only the box is known\n",
            "`positive`: all objects of the phrase are labelled. `absent`: somebody looked, there is none. `unknown`,",
            "or not mentioned: nobody looked; neither to be learnt from nor measured on.\n",
            "## Provenance\n",
            f"{texts.provenance}\n",
            "## Licence\n",
            f"{texts.licence}{warning}\n",
        ]
    )


def _counts(sets: Sequence[ExampleSet], names: Sequence[str]) -> list[str]:
    lines = ["| split | pictures | positive pairs | absent pairs | unknown pairs | objects | of these boxes only |"]
    lines.append("|---|---|---|---|---|---|---|")
    phrases = [
        "## Phrases\n",
        "| split | phrase | positive | absent | unknown | objects |",
        "|---|---|---|---|---|---|",
    ]
    for name, examples in zip(names, sets, strict=True):
        total = examples.summary()
        lines.append(
            f"| {name} | {total.images} | {total.positive} | {total.absent} | {total.unknown} | {total.objects} | "
            f"{total.box_only} |"
        )
        phrases += [
            f"| {name} | {one.phrase} | {one.positive} | {one.absent} | {one.unknown} | {one.objects} |"
            for one in total.phrases
        ]
    return [*lines, "", *phrases, ""]
