"""Small trainable additions to a frozen model: what is adapted, how it is saved, loaded and switched off.

A `Plan` says where; `add_adapter` puts low-rank updates (through peft) on those layers and, with them, own vectors
for the tokens of the new phrases. The base weights never change, so before and after are one model with a switch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from sam3.files import write_folder_atomically, write_text
from sam3.model import Sam3

if TYPE_CHECKING:
    from peft import PeftModel

_MANIFEST = "manifest.json"
_FORMAT = "workbench-adapter-1"
_ADAPTED = {"heads": ("detector",), "lora": ("detector", "image_encoder.blocks")}
# Not adapted: 3x3 convolutions, and what a few pictures with phrases and boxes give no gradient to.
_LEFT_ALONE = ("detector.mask_head.convs", "detector.mask_head.semantic_conv", "detector.exemplar_encoder.point_")


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        name: "heads" leaves image and text encoder alone, so that picture features are computed once and kept;
            "lora" also adapts both encoders.
        rank: of the low-rank updates; more can express more and needs more pictures.
        alpha: strength of the updates; they are scaled by alpha / rank.
        learn_tokens: also learn vectors for the tokens of the adapted phrases.
    """

    name: Literal["heads", "lora"] = "heads"
    rank: int = 8
    alpha: float = 16.0
    learn_tokens: bool = True

    def __post_init__(self) -> None:
        if self.name not in _ADAPTED:
            raise ValueError(f"the plan {self.name!r} is unknown; expected one of {', '.join(_ADAPTED)}")
        if self.rank < 1:
            raise ValueError(f"received rank {self.rank}; expected at least 1")

    @property
    def freezes_image_encoder(self) -> bool:
        return self.name == "heads"


@dataclass(frozen=True)
class Adapter:
    """A handle on the trainable additions inside a model.

    Attributes:
        peft: peft's view of the adapted model; `peft.base_model.model` is the model itself.
        plan: what is trained.
        phrases: the phrases it was made for.
        base: fingerprint of the weights it belongs to.
        facts: anything worth keeping with it, such as metrics.
        parameters: the trainable parameters by name.
    """

    peft: PeftModel
    plan: Plan
    phrases: tuple[str, ...]
    base: str
    facts: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        # Kept, since a disabled adapter has no parameter that requires a gradient.
        trainable = {name: p for name, p in self.peft.named_parameters() if p.requires_grad}
        object.__setattr__(self, "parameters", trainable)

    @property
    def num_trainable(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the trainable tensors, on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Puts back what `state` returned."""
        parameters = self.parameters
        if parameters.keys() != state.keys():
            odd = sorted(parameters.keys() ^ state.keys())
            raise ValueError(f"the saved state does not fit this adapter; {len(odd)} tensors differ, such as {odd[0]}")
        for name, value in state.items():
            parameters[name].copy_(value)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within this context the model answers exactly as without the adapter."""
        with self.peft.disable_adapter():
            yield

    def save(self, folder: str | Path, state: dict[str, torch.Tensor] | None = None) -> Path:
        """Writes the adapter (peft's own files plus a manifest) and returns the folder; a few hundred KB.

        Args:
            folder: replaced as a whole if it exists.
            state: an earlier `state()` to write in place of the present one.

        Raises:
            OSError: the folder cannot be written; an older one is left as it was.
        """
        from peft import get_peft_model_state_dict
        from peft.utils import SAFETENSORS_WEIGHTS_NAME

        manifest = {
            "format": _FORMAT,
            "plan": asdict(self.plan),
            "phrases": list(self.phrases),
            "base": self.base,
            "facts": self.facts,
        }

        def write(draft: Path) -> None:
            # Like `save_pretrained`, but without its template of a model card, and a full disk is an OSError.
            tensors = get_peft_model_state_dict(self.peft, state_dict=self.peft.state_dict() | (state or {}))
            content = to_bytes({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
            (draft / SAFETENSORS_WEIGHTS_NAME).write_bytes(content)
            self.peft.peft_config["default"].save_pretrained(str(draft))
            write_text(draft / _MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False))

        write_folder_atomically(folder, write)
        return Path(folder)


def add_adapter(model: Sam3, plan: Plan, phrases: Sequence[str]) -> Adapter:
    """Freezes the model, puts a new adapter into it and returns the handle; outputs stay the same until it is trained.

    Args:
        model: changed in place.
        plan: what is trained.
        phrases: whose tokens get own vectors.

    Raises:
        ValueError: the model carries an adapter already.

    Example:
        >>> from sam3 import Sam3Config
        >>> adapter = add_adapter(Sam3(Sam3Config.tiny()), Plan("heads", rank=4), ["gold coin"])
        >>> [name for name, values in adapter.parameters.items() if "token_embed" in name and len(values) == 2]
        ['base_model.model.detector.text_encoder.token_embed.token_adapter.trainable_tokens_delta.default']
    """
    from peft import LoraConfig, get_peft_model

    if getattr(model, "peft_config", None):
        raise ValueError("this model carries an adapter already; load the model anew, or go on with the adapter it has")
    base = fingerprint(model)
    tokens = token_ids(model, phrases) if plan.learn_tokens else []
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,  # type: ignore[arg-type]
        target_modules=adapted_layers(model, plan),
        trainable_token_indices={"token_embed": tokens} if tokens else None,
    )
    adapted = get_peft_model(model, config)  # type: ignore[arg-type]
    return Adapter(adapted, plan, tuple(phrases), base)  # type: ignore[arg-type]


def load_adapter(model: Sam3, folder: str | Path) -> Adapter:
    """Puts a saved adapter into the model it was trained on.

    Raises:
        ValueError: the folder holds no adapter, or one for other weights.
    """
    from peft import PeftModel

    manifest = read_manifest(folder)
    plan, phrases, base = Plan(**manifest["plan"]), tuple(manifest["phrases"]), manifest["base"]
    if getattr(model, "peft_config", None):
        raise ValueError("this model carries an adapter already; load the model anew before loading another")
    if base != (found := fingerprint(model)):
        raise ValueError(
            f"the adapter in {folder} belongs to a model with fingerprint {base}, this one has {found}; load the model "
            "it was trained on, or adapt this one"
        )
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=True)  # type: ignore[arg-type]
    return Adapter(adapted, plan, phrases, base, manifest["facts"])


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What is known about a saved adapter: "plan", "phrases", "base" and "facts".

    Raises:
        ValueError: the folder holds no adapter.
    """
    try:
        manifest = json.loads((Path(folder) / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}, not {_FORMAT!r}")
        return {name: manifest[name] for name in ("plan", "phrases", "base", "facts")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} holds no adapter of this workbench ({type(error).__name__}: {error}); expected the folder "
            "`adapter` that `workbench adapt` wrote"
        ) from error


def adapted_layers(model: Sam3, plan: Plan) -> list[str]:
    """Names of the linear and convolution layers that a plan adapts."""
    left_alone = (*_LEFT_ALONE, "detector.text_encoder") if plan.name == "heads" else _LEFT_ALONE
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and name.startswith(_ADAPTED[plan.name])
        and not name.startswith(left_alone)
    ]


def token_ids(model: Sam3, phrases: Sequence[str]) -> list[int]:
    """Ids of the tokens of the phrases, without start, end and padding."""
    if not phrases:
        return []
    ids = model.tokenizer(list(phrases))
    special = {0, int(ids[0, 0]), int(model.tokenizer([""])[0, 1])}
    return sorted({int(i) for i in ids.flatten()} - special)


def fingerprint(model: Sam3) -> str:
    """Sixteen hex digits that tell weights apart, in whatever precision they are loaded: names, shapes and 256 values
    of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        values = tensor.detach().flatten()
        values = values[:: max(1, len(values) // 256)][:256].bfloat16().float()
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
