"""The files of an adapter: tensors, and a manifest that makes every later change to them visible.

A folder holds `manifest.json`, `adapter_model.safetensors` (low-rank updates under peft's names, or all weights of the
plan "full") with peft's `adapter_config.json`, and `concept_vectors.safetensors`. Nothing is loaded that is not exactly
what was saved: every way a file can go wrong has its own error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from sam3.files import write_folder_atomically, write_text
from sam3.image_encoder import to_pixel_values
from sam3.model import Sam3
from sam3.prompts import Prompt

MANIFEST = "manifest.json"
UPDATES = "adapter_model.safetensors"
VECTORS = "concept_vectors.safetensors"
_FORMAT = "workbench-adapter-2"
_PREFIX = "base_model.model."  # peft's, before the names of the model it wraps
_PROBE_GRID = 16  # patches per side of the test picture: small, so that the largest model answers within seconds


@dataclass(frozen=True)
class Manifest:
    """What is known about an adapter.

    Attributes:
        plan: fields of a `Plan`.
        phrases: what it was trained for.
        base: fingerprint of the weights it belongs to.
        facts: whatever the training wanted to keep.
        dtype: of the tensors.
        digests: eight hex digits per tensor.
        probe: what the adapted model answers to the test picture.
        versions: of the packages it was made with.
    """

    plan: dict[str, Any]
    phrases: tuple[str, ...]
    base: str
    facts: dict[str, Any]
    dtype: str
    digests: dict[str, str]
    probe: tuple[float, ...]
    versions: dict[str, str]

    @classmethod
    def of(
        cls,
        plan: dict[str, Any],
        phrases: Sequence[str],
        base: str,
        facts: dict[str, Any],
        tensors: Mapping[str, torch.Tensor],
        answers: Sequence[float],
    ) -> Manifest:
        """The manifest of tensors that are about to be written."""
        dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
        digests = {name: _digest(tensor) for name, tensor in tensors.items()}
        return cls(plan, tuple(phrases), base, facts, dtype, digests, tuple(answers), _versions())

    def compare_probe(self, folder: str | Path, answers: Sequence[float], dtype: torch.dtype) -> None:
        """Raises ValueError when the adapted model answers something else than it did when it was saved."""
        tolerance = 0.02 if dtype == torch.float32 else 0.3
        saved, now = np.array(self.probe), np.array(answers)
        if saved.shape != now.shape or not np.allclose(saved, now, rtol=tolerance, atol=tolerance):
            gap = f"by up to {np.abs(saved - now).max():.2g}" if saved.shape == now.shape else "in number"
            raise ValueError(
                f"the adapter in {folder} fits, but answers its test picture differently than when it was saved "
                f"({gap}); it was made with {self.versions}, this is {_versions()}. Adapt again with these versions"
            )


def probe(model: Sam3, phrases: Sequence[str]) -> list[float]:
    """Sixteen numbers per question that the model answers to a fixed small picture, asked for the first two phrases and
    for an example box."""
    side = model.config.image_encoder.patch_size * _PROBE_GRID
    blotches = np.random.default_rng(7).integers(0, 256, (7, 7, 3)).astype(np.uint8)
    picture = np.asarray(Image.fromarray(blotches).resize((side, side), Image.Resampling.BICUBIC))
    pixels = to_pixel_values(picture, side)[None].to(model.device, model.dtype)
    box = [side * 0.2, side * 0.25, side * 0.6, side * 0.7]
    prompts = [*(Prompt(phrase) for phrase in phrases[:2]), Prompt(None, exemplar_boxes_xyxy_px=[box])]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        output = model.detect(pixels, [prompts])
        match = output.pred_logits.float().sort(dim=1, descending=True).values
        match = torch.nn.functional.interpolate(match[:, None], size=8, mode="linear", align_corners=True)[:, 0]
        masks = output.pred_masks.float().flatten(1)
        answers = torch.cat(
            [
                output.presence_logits.float()[:, None],
                match,
                output.pred_boxes_cxcywh.float().mean(1),
                masks.sigmoid().mean(1, keepdim=True),
                output.semantic_logits.float().flatten(1).sigmoid().mean(1, keepdim=True),
                output.scores.mean(1, keepdim=True),
            ],
            dim=1,
        )
    model.train(was_training)
    return [round(value, 5) for value in answers.flatten().tolist()]


def write_adapter(folder: Path, manifest: Manifest, tensors: Mapping[str, torch.Tensor], peft_config: Any) -> None:
    """Writes all files of an adapter, or leaves the folder as it was.

    Args:
        folder: replaced as a whole.
        manifest: of these tensors.
        tensors: trainable tensors by parameter name.
        peft_config: peft's description of the low-rank updates, or None.
    """
    vectors = {name: tensor for name, tensor in tensors.items() if name.endswith("token_embed.offsets")}
    updates = {_file_name(name): tensor for name, tensor in tensors.items() if name not in vectors}

    def write(draft: Path) -> None:
        # Bytes first, then a plain write: then a full disk is an OSError.
        for name, part in ((UPDATES, updates), (VECTORS, vectors)):
            if part:
                (draft / name).write_bytes(to_bytes({k: v.contiguous() for k, v in part.items()}, {"format": "pt"}))
        if peft_config is not None:
            peft_config.save_pretrained(str(draft))
        content = {"format": _FORMAT, **asdict(manifest)}
        write_text(draft / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False))

    write_folder_atomically(folder, write)


def read_manifest(folder: str | Path) -> Manifest:
    """What is known about a saved adapter.

    Raises:
        ValueError: the folder holds no adapter.
    """
    try:
        content = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
        if (found := content.pop("format")) != _FORMAT:
            raise ValueError(f"its format is {found!r}, not {_FORMAT!r}")
        manifest = Manifest(**content)
        return Manifest(**{**content, "phrases": tuple(manifest.phrases), "probe": tuple(manifest.probe)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder} holds no adapter of this workbench ({type(error).__name__}: {error}); expected the folder "
            "`adapter` that `workbench adapt` wrote"
        ) from error


def add_facts(folder: str | Path, **facts: Any) -> None:
    """Writes more facts into the manifest of a saved adapter; its tensors stay as they are.

    Raises:
        ValueError: the folder holds no adapter.
    """
    manifest = read_manifest(folder)
    content = {"format": _FORMAT, **asdict(manifest), "facts": {**manifest.facts, **facts}}
    write_text(Path(folder) / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False))


def read_tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter by parameter name, as far as their names tell.

    Raises:
        ValueError: no file, an empty one, one that is cut short, or one that is no safetensors file.
    """
    paths = [path for name in (UPDATES, VECTORS) if (path := Path(folder) / name).exists()]
    if not paths:
        raise ValueError(f"{folder} holds neither {UPDATES} nor {VECTORS}; copy the whole folder of the adapter")
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        content = path.read_bytes()
        if not content:
            raise ValueError(f"{path} is empty; copy the adapter again, or adapt again")
        try:
            part = from_bytes(content)
        except SafetensorError as error:
            header = 8 + int.from_bytes(content[:8], "little") if len(content) >= 8 else 8
            if len(content) < header or "incomplete metadata" in str(error):
                raise ValueError(
                    f"{path} is cut short: {len(content)} bytes, its header speaks of more; copy it again"
                ) from error
            raise ValueError(f"{path} is no safetensors file ({error}); expected what `Adapter.save` wrote") from error
        tensors |= {(_parameter_name(name) if path.name == UPDATES else name): t for name, t in part.items()}
    if not tensors:
        raise ValueError(f"{folder} holds an adapter without a single tensor; adapt again")
    return tensors


def check_tensors(folder: str | Path, manifest: Manifest, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError, with what happened, unless the tensors are exactly those the manifest was written for."""
    expected = manifest.digests
    if tensors.keys() != expected.keys():
        raise ValueError(f"{folder}: {_what_is_wrong_with_names(set(tensors), set(expected))}")
    found = {name: _digest(tensor) for name, tensor in tensors.items()}
    if found == expected:
        return
    odd = sorted(name for name in found if found[name] != expected[name])
    if sorted(found.values()) == sorted(expected.values()):
        raise ValueError(
            f"{folder}: {len(odd)} tensors carry each other's values, such as {odd[0]}; the names were shuffled after "
            "saving. Copy the adapter again from where it was trained"
        )
    dtypes = {str(tensors[name].dtype).removeprefix("torch.") for name in odd}
    if dtypes != {manifest.dtype}:
        raise ValueError(
            f"{folder}: tensors are {', '.join(sorted(dtypes))}, saved were {manifest.dtype}; a conversion changed the "
            "file. Use the original, conversions happen when the model is loaded"
        )
    ranks = {len(tensors[name]) for name in odd if ".lora_A." in name}
    if ranks and ranks != {manifest.plan["rank"]}:
        raise ValueError(
            f"{folder}: the low-rank updates have rank {', '.join(map(str, sorted(ranks)))}, the manifest says rank "
            f"{manifest.plan['rank']}; manifest and tensors belong to different adapters. Copy the whole folder again"
        )
    raise ValueError(
        f"{folder}: {len(odd)} tensors were changed after saving, such as {odd[0]}; copy the adapter again from where "
        "it was trained"
    )


def _what_is_wrong_with_names(found: set[str], expected: set[str]) -> str:
    if found and all(name.startswith("module.") for name in found):
        return (
            "all names begin with 'module.', as a model wrapped for several processes writes them; save the adapter "
            "with `Adapter.save`, or take the prefix away"
        )
    if any(name.startswith("!") for name in found):
        return (
            f"names lack the prefix {_PREFIX!r} that peft's files carry; the tensors were saved from the inner model. "
            "Save the adapter with `Adapter.save`"
        )
    missing, extra = sorted(expected - found), sorted(found - expected)
    parts = [f"{len(missing)} tensors are missing, such as {missing[0]}"] if missing else []
    parts += [f"{len(extra)} are unknown, such as {extra[0]}"] if extra else []
    return f"{'; '.join(parts)}; manifest and tensors belong to different adapters. Copy the whole folder again"


def _file_name(parameter: str) -> str:
    return _PREFIX + parameter.replace(".default.", ".")


def _parameter_name(name: str) -> str:
    """The parameter a tensor in the file belongs to; a leading "!" marks one without peft's prefix."""
    if name.startswith("module."):
        return name
    if not name.startswith(_PREFIX):
        return f"!{name}"
    name = name.removeprefix(_PREFIX)
    for part in (".lora_A.", ".lora_B."):
        name = name.replace(part, f"{part}default.")
    return name


def _digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + data).hexdigest()[:8]


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("sam3-workbench", "torch", "peft"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions
