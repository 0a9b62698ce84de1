"""Weights in and out: `load_sam3` and `save`, strict in both directions.

Three layouts: our own file (safetensors with the sizes in its header), the released native `.pt` file, and folders of
transformers. A file is checked completely, name by name, before a model is made from it; what was left out or filled
in is said in the `LoadReport`.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sam3 import key_tables
from sam3.config import Sam3Config
from sam3.files import write_atomically, write_folder_atomically
from sam3.foreign_configs import SCALES, config_to_transformers, native_rotary_tables
from sam3.key_tables import Shape, Source
from sam3.model import Sam3
from sam3.speed import DTYPES, Precision, as_precision, compile_model, set_precision
from sam3.weight_files import FORMAT, CheckpointError, WeightFile, open_weights

log = logging.getLogger(__name__)

_NO_TRACKER = "the file has no tracker that this model can use: no clicks, no videos"

Layout = Literal["workbench", "native", "transformers"]


@dataclass(frozen=True)
class LoadReport:
    """What happened when a model was loaded.

    Attributes:
        source: path or name the weights came from.
        layout: whose names they had.
        num_tensors: tensors of the model that were read.
        left_out: names in the file that the model has no use for: another tracker's, tables that are computed.
        filled: our names that the file has nothing for; they are zero.
        notes: what was assumed, and other things worth knowing.
        metadata: free text stored with the weights.
    """

    source: str
    layout: Layout
    num_tensors: int
    left_out: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        groups = Counter(name.split(".")[0] for name in self.left_out)
        lines = [f"{self.source} ({self.layout}): {self.num_tensors} tensors read"]
        for group, count in sorted(groups.items()):
            first = next(name for name in self.left_out if name.split(".")[0] == group)
            lines.append(f"left out: {count} of {group}.*, for instance {first}")
        if self.filled:
            lines.append("not in the file, set to zero: " + ", ".join(self.filled))
        return "\n".join([*lines, *self.notes])


def load_sam3(
    source: str | Path = "tiny",
    *,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    compile: bool = False,
) -> Sam3:
    """A model with weights, in evaluation mode.

    Args:
        source: "tiny" for the weights that come with the package; a file written by `save`; a native `.pt` file (SAM 3,
            or the image half of SAM 3.1); a transformers folder; or a hub name such as "facebook/sam3".
        device: where to put the model; the CPU when left out.
        precision: "fp32", "bf16", "fp16", or "int8" on a CPU; see `sam3.speed.set_precision`.
        compile: faster after a slow start; see `sam3.speed.compile_model`.

    Returns:
        The model; `model.load_report` says what was read, left out and filled in.

    Raises:
        CheckpointError: nothing usable at `source`. No partly loaded model exists then.
        ValueError: the precision is unknown, or not for this device.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> save(Sam3(Sam3Config.tiny()), path)
        >>> load_sam3(path).load_report.layout
        'workbench'
    """
    as_precision(precision)
    file = open_weights(source)
    try:
        model = _without_numbers(file.config)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{source}: no model can be built with these sizes: {error}; config {file.config}"
        ) from error
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    places = {key: Source(key) if file.layout == "workbench" else key_tables.source(key, file.layout) for key in shapes}
    found = {key: place for key, place in places.items() if place is not None}
    _check(file, str(source), {place.name: place.foreign_shape(shapes[key]) for key, place in found.items()})

    device, dtype = device or "cpu", DTYPES[precision]
    state = {key: torch.zeros(shapes[key], device=device, dtype=dtype) for key in shapes.keys() - found.keys()}
    broken = set()
    for (key, place), mapped in zip(found.items(), file.read(place.name for place in found.values()), strict=True):
        # Copied: the model must not change with the file, and no two parameters may share memory.
        state[key] = place.read(mapped).to(device, dtype, copy=True, memory_format=torch.contiguous_format)
        if not _is_finite(state[key]):
            broken.add(place.name)
    if broken:
        problems = {"not finite (NaN or infinite)": sorted(broken)}
        raise _misfit(f"{source} ({file.layout} layout)", problems, len(found), "Nothing was loaded.")
    model.load_state_dict(state, strict=True, assign=True)
    del state  # or it would hold what int8 replaces
    filled = tuple(key for key in shapes if key not in found)
    notes = file.notes if file.config.tracker is not None else (*file.notes, _NO_TRACKER)
    report = LoadReport(str(source), file.layout, len(found), file.left_out, filled, notes, file.metadata)
    model.load_report = report
    log.info("loaded %s", report)
    set_precision(model.eval(), precision)
    return compile_model(model) if compile else model


def save(
    model: Sam3,
    path: str | Path,
    layout: Layout = "workbench",
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes the weights in one step: `path` holds either what it held before, or the complete new weights.

    Args:
        model: with its adapters, if any, merged.
        path: a `.safetensors` file (workbench); a `.pt` file (native: names and form of the released file); or a folder
            (transformers: for `Sam3VideoModel.from_pretrained`, or `Sam3Model` when the model has no tracker; it has
            no place for the weights of point exemplars, always has four pyramid levels, and its video model can be
            built with a memory width of 64 only).
        layout: whose names and form to write.
        dtype: of the file; the model's own when left out.
        metadata: free text to keep with the weights.

    Raises:
        CheckpointError: the model has other tensors than its config says, or numbers that are not finite.
        ValueError: the layout is unknown, or the model is in int8.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout is {layout!r}; expected one of {get_args(Layout)}")
    if model.precision == "int8":
        raise ValueError("a model in int8 cannot be saved; load it in fp32 and save that")
    path = Path(path)
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in model.state_dict().items()}
    expected = _shapes(model.config)
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "not finite (NaN or infinite)": sorted(key for key, value in state.items() if not _is_finite(value)),
    }
    if any(problems.values()):
        raise _misfit("the model to be saved", problems, len(expected), f"Nothing was written to {path}.")
    text = {key: str(value) for key, value in (metadata or {}).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout == "workbench":
        header = {**text, "format": FORMAT, "config": json.dumps(model.config.to_dict())}
        write_atomically(path, lambda temporary: save_file(state, temporary, metadata=header))
    elif layout == "native":
        tensors = {**_foreign(state, "native"), **native_rotary_tables(model.config.image_encoder)}
        prefixed = {name if name.startswith("tracker.") else f"detector.{name}": tensors[name] for name in tensors}
        content = {"model": prefixed, "format": FORMAT, "config": model.config.to_dict(), "metadata": text}
        write_atomically(path, lambda temporary: torch.save(content, temporary))
    else:
        config = replace(model.config, image_encoder=replace(model.config.image_encoder, pyramid_scales=SCALES))
        kind = dtype or model.dtype
        for key, shape in _shapes(config).items():
            state.setdefault(key, torch.zeros(shape, dtype=kind))
        tensors = _foreign(state, "transformers")
        if config.tracker is not None:
            tensors = {n if n.startswith("tracker_") else f"detector_model.{n}": t for n, t in tensors.items()}
            tensors[key_tables.REPEATED_KEY] = state["tracker.prompt_encoder.frequencies"].clone()

        def write(folder: Path) -> None:
            save_file(tensors, folder / "model.safetensors", metadata={**text, "format": "pt"})
            (folder / "config.json").write_text(json.dumps(config_to_transformers(config, kind), indent=2) + "\n")

        _refuse_to_delete(path)
        write_folder_atomically(path, write)


def _check(file: WeightFile, source: str, expected: Mapping[str, Shape]) -> None:
    """Raises unless the file holds exactly the expected names, as floats of the expected shapes."""

    def is_wrong(name: str) -> bool:
        tensor = file.tensors[name]
        return not isinstance(tensor, Tensor) or tensor.shape != expected[name] or not tensor.is_floating_point()

    def describe(name: str) -> str:
        tensor = file.tensors[name]
        received = f"{tuple(tensor.shape)} {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
        return f"{name}: received {received}, expected floats {expected[name]}"

    problems = {
        "missing": sorted(expected.keys() - file.tensors.keys()),
        "unexpected": sorted(file.tensors.keys() - expected.keys()),
        "of wrong shape or type": [
            describe(name) for name in sorted(expected.keys() & file.tensors.keys()) if is_wrong(name)
        ],
    }
    if any(problems.values()):
        raise _misfit(f"{source} ({file.layout} layout)", problems, len(expected), "Nothing was loaded.")


def _misfit(what: str, problems: Mapping[str, Iterable[str]], total: int, outcome: str) -> CheckpointError:
    """The readable list of what does not fit, with its likely cause."""
    lists = {kind: list(names) for kind, names in problems.items()}
    lines = [f"{what}: the tensors are not those of the SAM 3 model ({total} expected). {outcome}"]
    for kind, names in lists.items():
        if names:
            lines.append(f"{len(names)} {kind}:")
            lines += [f"  {name}" for name in names[:10]] + ["  ..."] * (len(names) > 10)
    missing, unexpected = len(lists.get("missing", [])), lists.get("unexpected", [])
    if lists.get("not finite (NaN or infinite)"):
        cause = "training diverged, or the file is damaged. Use an earlier checkpoint, or download it again"
    elif any("lora_" in name or ".base_layer." in name for name in unexpected):
        cause = "an adapter sits in the model. Merge or remove it first"
    elif missing > total // 2:
        cause = "these are weights of something else. Check the path"
    elif lists.get("of wrong shape or type"):
        cause = "the config describes another size than the weights have. Use the config that belongs to them"
    elif missing:
        cause = "the file is incomplete or of another version. Download or save it again"
    else:
        cause = "another variant of the model. This version reads SAM 3, and the image half of SAM 3.1"
    return CheckpointError("\n".join([*lines, f"Likely cause: {cause}."]))


def _shapes(config: Sam3Config) -> dict[str, Shape]:
    return {key: tuple(value.shape) for key, value in _without_numbers(config).state_dict().items()}


def _without_numbers(config: Sam3Config) -> Sam3:
    """The model with shapes only. To draw what is never read, torch would load its compiler, for 3 s."""
    with torch.device("meta"), _NoFirstNumbers():
        return Sam3(config)


class _NoFirstNumbers(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **(kwargs or {}))


def _foreign(state: Mapping[str, Tensor], layout: key_tables.Layout) -> dict[str, Tensor]:
    """Our tensors under the names and in the form of another layout; what it has no place for is left out."""
    fused: dict[str, list[Tensor]] = {}
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        place = key_tables.source(key, layout)
        if place is None:
            continue
        if place.part is not None:
            fused.setdefault(place.name, [tensor] * place.num_parts)[place.part] = tensor
        elif place.change == "transpose":
            tensors[place.name] = tensor.T.contiguous()
        elif place.change == "drop_first":
            tensors[place.name] = torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)
        else:
            tensors[place.name] = tensor
    return tensors | {name: torch.cat(parts) for name, parts in fused.items()}


def _is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite; the sum answers in one pass unless it overflows itself."""
    return math.isfinite(tensor.sum(dtype=torch.float32)) or bool(tensor.isfinite().all())


def _refuse_to_delete(path: Path) -> None:
    """An error when `path` holds anything that `save` did not write."""
    if path.exists():
        ours = {"config.json", "model.safetensors"}
        others = sorted({p.name for p in path.iterdir()} - ours) if path.is_dir() else [path.name]
        if others:
            raise CheckpointError(f"{path} exists and {others[0]!r} would be deleted by saving; give a new folder")
