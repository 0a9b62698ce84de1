"""The commands `workbench import` and `workbench export`; `__main__.py` adds them to the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.command_options import Debug

if TYPE_CHECKING:
    from workbench.examples import ExampleSet

Source = Annotated[Path, typer.Argument(help="File or folder with labels.")]
Form = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="coco, yolo, masks, label-maps, saco, hub, nifti, dicom, waymo-boxes, waymo-segments, icdar2015, textocr, "
        "coco-text or total-text; found out when left out.",
    ),
]
Phrases = Annotated[
    list[str] | None,
    typer.Option(metavar="OLD=NEW", help="Search for NEW where the labels say OLD; OLD= drops it. Can be repeated."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take the first pictures (or slices) of each split only.")]
Images = Annotated[Path | None, typer.Option(help="Folder of the pictures, where they do not lie with the labels.")]
Labels = Annotated[
    Path | None, typer.Option(help="Masks of pictures, label volume of a NIfTI file, label PNGs of a DICOM series.")
]
Names = Annotated[
    Path | None, typer.Option(help='Names of label values: {"1": "liver"} as JSON or YAML, or lines `1 liver`.')
]
Window = Annotated[
    str | None,
    typer.Option(
        help="Values shown as black to white: lung, bone, soft-tissue, brain, liver, mediastinum, or LEVEL,WIDTH."
    ),
]
Axis = Annotated[str | None, typer.Option(help="Slices of a NIfTI volume: axial, coronal or sagittal.")]
SplitParts = Annotated[
    bool, typer.Option("--split-parts", help="Make every connected region of a label value an object of its own.")
]
Annotator = Annotated[
    str | None, typer.Option(help="SA-Co: a, b or c; they are never joined. The first when left out.")
]
Camera = Annotated[str | None, typer.Option(help="Waymo: front, front_left, front_right, side_left or side_right.")]
Partial = Annotated[
    bool,
    typer.Option("--partial", help="Not everything was looked for everywhere: no label means unknown, not absent."),
]


def import_labels(
    source: Source,
    out: Annotated[Path, typer.Option(help="New folder for labels.json (or one file per split) and images/.")],
    form: Form = None,
    phrases: Phrases = None,
    limit: Limit = None,
    images: Images = None,
    labels: Labels = None,
    names: Names = None,
    window: Window = None,
    axis: Axis = None,
    split_parts: SplitParts = False,
    annotator: Annotator = None,
    camera: Camera = None,
    partial: Partial = False,
    debug: Debug = False,
) -> None:
    """Bring labels of any common form into the workbench's own.

    Writes COCO files beside a folder of pictures, says what is in them and what to look at first: boxes outside their
    picture, empty masks, the same picture in two splits, names that say nothing to the model. A phrase counts as absent
    only where it was looked for; crowds and specks never make it absent.

    \b
    Examples:
      workbench import exports/roboflow --out data/mine --phrases cls0="gold coin"
      workbench import yolo/data.yaml --out data/mine
      workbench import ct.nii.gz --labels ct_labels.nii.gz --names organs.json --window soft-tissue --out data/ct
      workbench import gold/ --annotator b --images pictures/ --out data/gold
    """
    from workbench.formats.names import changes_of
    from workbench.transfer import import_labels as bring_in

    done = bring_in(
        source,
        out,
        form,
        phrases=changes_of(phrases) if phrases else None,
        limit=limit,
        images=images,
        labels=labels,
        names=names,
        window=window,
        axis=axis,
        split_parts=split_parts or None,
        annotator=annotator,
        camera=camera,
        exhaustive=False if partial else None,
    )
    typer.echo(f"Read as {done.form}.")
    for examples, file, pictures in zip(done.sets, done.files, done.pictures, strict=True):
        _show(examples)
        typer.echo(f"Written to {file}, pictures in {pictures}")
    typer.echo(str(done.report))


def export_labels(
    source: Source,
    to: Annotated[str, typer.Option(help="coco, yolo (YOLO-seg), saco (SA-Co JSON) or parquet (with a card).")],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    form: Form = None,
    phrases: Phrases = None,
    limit: Limit = None,
    images: Images = None,
    licence: Annotated[str | None, typer.Option(help="For the card of a parquet set, such as cc-by-4.0.")] = None,
    provenance: Annotated[str | None, typer.Option(help="For the card: who made pictures and labels, and how.")] = None,
    debug: Debug = False,
) -> None:
    """Write labels in a form that other tools read.

    COCO, SA-Co and parquet keep every mask, hole, part, box and status. YOLO-seg cannot: what is lost is counted.

    \b
    Examples:
      workbench export data/mine --to yolo --out exports/yolo
      workbench export data/mine --to parquet --out exports/hub --licence cc-by-4.0 --provenance "Drawn by hand."
    """
    from workbench.formats.card import CardTexts
    from workbench.formats.names import changes_of
    from workbench.transfer import export_labels as send_out

    texts = None
    if licence or provenance or to == "parquet":
        usual = CardTexts()
        texts = CardTexts(out.name, licence or usual.licence, provenance or usual.provenance)
    changes = changes_of(phrases) if phrases else None
    for examples in send_out(source, out, to, form, texts=texts, phrases=changes, limit=limit, images=images):
        _show(examples)
    typer.echo(f"Written to {out}")


def _show(examples: ExampleSet) -> None:
    typer.echo(str(examples.summary()))
