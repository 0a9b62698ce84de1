"""Opens a weight file of any layout without copying a tensor: which model it holds, what lies in it, and its tensors.

Files are memory-mapped. Nothing here runs code from a file: pickles are read as tensors only, or refused.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sam3.config import Sam3Config
from sam3.foreign_configs import config_from_native, config_from_transformers, native_rotary_tables
from sam3.key_tables import REPEATED_KEY

FORMAT = "sam3-workbench"
TINY_PATH = Path(__file__).parent / "weights" / "tiny.safetensors"
_MAPPED_BYTES = 2**28
_HUB_NAME = re.compile(r"[\w-]+/[\w.-]+(?<!\.pt)(?<!\.pth)(?<!\.safetensors)")

# Keys that are no part of the model. A 3.1 file carries two more necks, for its own tracker; an image model saved
# without a prefix may carry a click predictor; transformers stores one tensor twice, and once stored index buffers.
_NATIVE_LEFT_OUT = re.compile(r"backbone\.vision_backbone\.(interactive|propagation)_convs\.")
_NATIVE_UNPREFIXED_LEFT_OUT = re.compile(r"(tracker|inst_interactive_predictor)\.")
_TRANSFORMERS_LEFT_OUT = re.compile(
    rf"{re.escape(REPEATED_KEY)}$|.*\.(position_ids|inv_freq|rope_embeddings_(cos|sin))$"
)


class CheckpointError(ValueError):
    """Weights that cannot be used; the message says what is wrong with the file and what to do."""


@dataclass(frozen=True)
class WeightFile:
    """An opened file.

    Attributes:
        layout: whose names the tensors have.
        config: sizes of the model in it.
        tensors: by name, without the prefix of the detector: shapes and kinds, on the meta device; in a damaged file
            also things that are no tensors.
        places: of each tensor, the file that holds it and its name there.
        left_out: names, as in the file, that the model has no use for.
        notes: what was assumed.
        metadata: free text stored with the weights.
    """

    layout: Literal["workbench", "native", "transformers"]
    config: Sam3Config
    tensors: Mapping[str, Any]
    places: Mapping[str, tuple[Path, str]]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def read(self, names: Iterable[str]) -> Iterator[Tensor]:
        """The tensors of these names, in this order, memory-mapped: to be copied before the next one is asked for.

        What was read of a mapped file counts as memory of this process until the mapping ends, so it begins anew after
        every 256 MB.

        Raises:
            CheckpointError: a file is no longer what was opened.
        """
        mapped: dict[Path, Mapping[str, Any]] = {}
        num_bytes = 0
        for name in names:
            path, name_there = self.places[name]
            if num_bytes > _MAPPED_BYTES:
                mapped, num_bytes = {}, 0
            if path not in mapped:
                mapped[path] = _read_safetensors(path)[0] if path.suffix == ".safetensors" else _read_native(path)[0]
            tensor, expected = mapped[path].get(name_there), self.tensors[name]
            if not isinstance(tensor, Tensor) or (tensor.shape, tensor.dtype) != (expected.shape, expected.dtype):
                raise CheckpointError(f"{path} has changed while it was read; load it again")
            num_bytes += tensor.nbytes
            yield tensor
            del tensor


def open_weights(source: str | Path) -> WeightFile:
    """Opens whatever `source` is: "tiny", a file, a folder or a hub name.

    Raises:
        CheckpointError: there is nothing, or it cannot be read.
    """
    if source == "tiny":
        if not TINY_PATH.is_file():
            raise CheckpointError(
                f"the packaged weights {TINY_PATH} are missing; train them with `workbench pretrain`, or pass a file, "
                "a folder or a hub name such as 'facebook/sam3'"
            )
        return open_workbench(TINY_PATH)
    path = Path(source).expanduser()
    if path.is_dir():
        return open_transformers(path)
    if path.is_file():
        return open_workbench(path) if path.suffix == ".safetensors" else open_native(path)
    if isinstance(source, str) and _HUB_NAME.fullmatch(source):
        return open_transformers(_download(source))
    raise CheckpointError(
        f"nothing at {path.absolute()}; expected a weight file, a transformers folder or a hub name ('facebook/sam3')"
    )


def open_workbench(path: Path) -> WeightFile:
    """Opens a file written by `sam3.checkpoint.save`."""
    tensors, metadata = _read_safetensors(path)
    if metadata.pop("format", None) != FORMAT:
        raise CheckpointError(
            f"{path} was not written by sam3.checkpoint.save (its header has no format={FORMAT!r}); for transformers "
            "weights pass the folder that also holds config.json"
        )
    config = _own_config(path, metadata.pop("config", "null"))
    places = {name: (path, name) for name in tensors}
    return WeightFile("workbench", config, _outlines(tensors), places, metadata=metadata)


def open_native(path: Path) -> WeightFile:
    """Opens a native `.pt` file: `detector.` and other groups, or detector keys alone, plain or under "model"."""
    everything, content = _read_native(path)
    is_prefixed = any(name.startswith("detector.") for name in everything)
    tensors, tracker, places, left_out = {}, {}, {}, []
    for name, value in everything.items():
        inner = name.removeprefix("detector.")
        places[inner] = (path, name)
        if is_prefixed and name.startswith("tracker."):
            tracker[name] = value
        elif _NATIVE_LEFT_OUT.match(inner) or (
            inner == name if is_prefixed else _NATIVE_UNPREFIXED_LEFT_OUT.match(name)
        ):
            left_out.append(name)
        else:
            tensors[inner] = value
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    if content.get("format") == FORMAT:
        config = _own_config(path, content.get("config"))
        metadata = content.get("metadata", {})
    else:
        shapes = {name: tuple(v.shape) for name, v in (tensors | tracker).items() if isinstance(v, Tensor)}
        try:
            config, assumed = config_from_native(shapes)
            notes = tuple(f"assumed, since no shape tells: {item}" for item in assumed)
        except (KeyError, ValueError, IndexError, ZeroDivisionError):
            config = Sam3Config.sam3() if tracker else Sam3Config()  # comparing with it will say what is missing
    if config.tracker is None:
        left_out += tracker
    else:
        tensors |= tracker
    for name, table in native_rotary_tables(config.image_encoder).items():
        if not isinstance(theirs := tensors.get(name), Tensor):
            continue
        if theirs.shape != table.shape or not torch.allclose(theirs.to(table.dtype), table, atol=1e-2):
            raise CheckpointError(
                f"{path}: the rotary table {name} is not the one this model computes for {config.image_encoder}; the "
                "file belongs to another variant of the model"
            )
        left_out.append(f"detector.{name}" if is_prefixed else name)
        del tensors[name]
    return WeightFile("native", config, _outlines(tensors), places, tuple(left_out), notes, metadata)


def open_transformers(folder: Path) -> WeightFile:
    """Opens a folder of `Sam3Model` or of the video model around it, in one part or several."""
    config_path, index_path = folder / "config.json", folder / "model.safetensors.index.json"
    if not config_path.is_file():
        raise CheckpointError(
            f"{folder} has no config.json; expected a transformers folder with config.json and model.safetensors"
        )
    if (folder / "model.safetensors").is_file():
        parts = ["model.safetensors"]
    elif index_path.is_file():
        parts = sorted(set(_read_json(index_path).get("weight_map", {}).values()))
        for part in parts:
            if Path(part).name != part or not (folder / part).is_file():
                raise CheckpointError(f"{index_path} names the part {part!r}, which is not there; download it again")
    else:
        raise CheckpointError(
            f"{folder} has neither model.safetensors nor model.safetensors.index.json; other formats can carry code "
            "and are not read: download or save the model as safetensors"
        )
    everything: dict[str, Tensor] = {}
    found: dict[str, tuple[Path, str]] = {}
    metadata: dict[str, str] = {}
    for part in parts:
        tensors, text = _read_safetensors(folder / part)
        metadata |= text
        for name_there, tensor in tensors.items():
            # A video model saved by transformers 5 has the tracker's prefix twice.
            name = name_there.replace("tracker_model.tracker_model.", "tracker_model.")
            everything[name], found[name] = tensor, (folder / part, name_there)
    is_video = any(name.startswith("detector_model.") for name in everything)
    has_pyramid = any(name.startswith("tracker_neck.") for name in everything)
    has_tracker = has_pyramid and any(name.startswith("tracker_model.") for name in everything)
    tensors, places, left_out = {}, {}, []
    for name, tensor in everything.items():
        if _TRANSFORMERS_LEFT_OUT.match(name) or (name.startswith("tracker_model.") and not has_tracker):
            left_out.append(name)
        else:
            inner = name.removeprefix("detector_model.") if is_video else name
            tensors[inner], places[inner] = tensor, found[name]
    try:
        config = config_from_transformers(
            _read_json(config_path), has_tracker_pyramid=has_pyramid, has_tracker=has_tracker
        )
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{config_path} does not describe a SAM 3 model that this code can run: {error}; use the config.json "
            "that belongs to the weights"
        ) from error
    notes: tuple[str, ...] = ()
    if config.image_encoder.norm_eps != Sam3Config.sam3().image_encoder.norm_eps:
        notes = (
            f"config.json asks for layer_norm_eps {config.image_encoder.norm_eps:g} in the vision backbone; the "
            "original model has 1e-05",
        )
    metadata.pop("format", None)
    return WeightFile("transformers", config, _outlines(tensors), places, tuple(left_out), notes, metadata)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "*.safetensors", "*.json"]))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name!r} is no local file, and fetching it from the Hugging Face hub failed: "
            f"{type(error).__name__}: {_first_line(error)}\n"
            f"What to do: accept the licence at https://huggingface.co/{name} (the SAM 3 weights are gated), log in "
            "with `hf auth login`, check the network and HF_HUB_OFFLINE; or fetch the folder elsewhere, pass its path"
        ) from error


def _own_config(path: Path, stored: Any) -> Sam3Config:
    """The sizes `save` wrote: a dict, or its JSON."""
    try:
        return Sam3Config.from_dict(json.loads(stored) if isinstance(stored, str) else stored)
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: the sizes stored in it cannot be read: {error}; save the model again"
        ) from error


def _read_native(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands under the names of a `.pt` file, memory-mapped, and all its content."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is no readable .pt archive: cut off while downloading, written by a very old torch, or something "
            "else; download it again"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors; reading them could run foreign code, so nothing was loaded. "
            'Where you trust the file, open it once with torch and save {"model": state_dict} anew'
        ) from error
    except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {_first_line(error)}; download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; expected a dict of tensors, or one under 'model'"
        )
    everything = content["model"] if isinstance(content.get("model"), dict) else content
    return {str(name).removeprefix("module."): value for name, value in everything.items()}, content


def _outlines(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes and kinds; what is no tensor of floats, and so of no use, stays what it is."""
    return {
        name: torch.empty(value.shape, dtype=value.dtype, device="meta")
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in tensors.items()
    }


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Memory-mapped tensors and the header's free text."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file: {_first_line(error)}; download or save it again"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
