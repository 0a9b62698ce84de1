"""The commands `workbench import`, `export` and `label`; `__main__.py` adds them to the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.command_options import AdapterFolder, Debug, Device, Model, Precision, Threshold, load_model, name_of

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
Limit = Annotated[
    int | None, typer.Option(min=1, help="So many at most: first pictures of each split, slices spread over a volume.")
]
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


def label(
    folder: Annotated[Path, typer.Argument(help="Pictures; those in subfolders count.")],
    phrase: Annotated[list[str], typer.Option(help="What to look for; can be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder for labels.json; what is there is gone on with.")],
    model: Model = "tiny",
    adapter: AdapterFolder = None,
    score_threshold: Threshold = 0.5,
    to: Annotated[
        str | None,
        typer.Option(help="Also write yolo, saco or parquet, with the pictures, into a folder of that name."),
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Pictures that are written together.")] = 100,
    part: Annotated[
        str, typer.Option(help="For several machines and one folder: 2/4 does the second quarter.")
    ] = "1/1",
    workers: Annotated[int | None, typer.Option(min=1, help="Pictures worked on at the same time.")] = None,
    precision: Precision = "fp32",
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Label a folder of pictures with a model.

    Writes a COCO file with a score per object. These are a model's answers, to be looked through before anybody learns
    from them. A job that is stopped goes on where it stopped when the same command is given again.

    \b
    Examples:
      workbench label photos --phrase "red circle" --phrase star --out runs/labels
      workbench label trays --phrase coin --adapter runs/coins/adapter --out runs/trays --to yolo
    """
    from workbench.bulk import BulkConfig, label_folder
    from workbench.transfer import EXPORT_FORMS
    from workbench.transfer import export_labels as send_out

    if to is not None and to not in EXPORT_FORMS:
        raise ValueError(f"--to received {to!r}; expected one of {', '.join(EXPORT_FORMS)}")
    numbers = part.split("/")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"--part received {part!r}; expected two numbers such as 2/4")
    config = BulkConfig(tuple(phrase), score_threshold, shard_size, (int(numbers[0]), int(numbers[1])))
    loaded, handle = load_model(model, adapter, device, precision)
    name = name_of(model, adapter, precision)
    done = label_folder(handle or loaded, folder, out, config, model_name=name, workers=workers)
    pace = f" ({done.num_new / done.seconds:.1f} a second)" if done.num_new else ""
    typer.echo(
        f"{done.num_new} pictures labelled by {name}{pace}; in all {done.num_pictures}, {done.num_objects} objects"
    )
    for file, why in done.unreadable[:10]:
        typer.echo(f"Left out: {file}: {why}", err=True)
    if len(done.unreadable) > 10:
        typer.echo(f"and {len(done.unreadable) - 10} more", err=True)
    if done.labels is None:
        typer.echo(f"{done.missing_shards} shards of other parts are missing; the last part to end writes labels.json")
        return
    typer.echo(f"Labels: {done.labels}")
    if to is not None:
        send_out(done.labels, out / to, to, "coco", images=folder)
        typer.echo(f"As {to}: {out / to}")


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
