"""Label files in and out. Every reader turns one form of labels on disk into a Reading (`reading.py`): one ExampleSet
per split, and what had to be mended or left out. Every writer takes an ExampleSet.

    coco.py           COCO JSON: polygons, run lengths, boxes; the workbench's own form
    yolo.py           YOLO boxes and YOLO-seg
    mask_folders.py   one PNG per object, or label maps with a list of names
    saco.py           SA-Co JSON: one entry per picture and phrase, one or three annotators
    hub.py            data sets of the `datasets` package: folder, parquet, save_to_disk; parquet.py and card.py write
    rle.py            masks as run lengths
    outlines.py       masks as polygons and back
    reading.py        what all readers share: phrases, statuses, findings, paths that stay inside their folder
    sources.py        which form is this? `read_labels` finds out and calls the reader
"""

from workbench.formats.coco import coco_to_examples, examples_to_coco
from workbench.formats.rle import mask_of, rle_of

__all__ = ["coco_to_examples", "examples_to_coco", "mask_of", "rle_of"]
