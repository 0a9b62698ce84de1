"""Small trainable additions to a frozen model: what is adapted, how it is saved, loaded and switched off.

A `Plan` says where; `add_adapter` puts low-rank updates (through peft) on those layers and, with them, own vectors for the
tokens of the new phrases. The base weights never change, so before and after are one model with a switch.
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

from sam3.files import write_text
from sam3.model import Sam3

if TYPE_CHECKING:
    from peft import PeftModel

_MANIFEST = "manifest.json"
_FORMAT = "workbench-adapter-1"
_LINEAR = r"(q|k|v|out|fc1|fc2|project\w*|\w+_(coordinates|position|pool)|layers\.\d+)"
_TARGETS = {
    "heads": rf"detector\.(?!text_encoder)(?!mask_head\.convs).*\.?{_LINEAR}",
    "lora": rf"(detector\.(?!mask_head\.convs)|image_encoder\.blocks\.).*\.?{_LINEAR}",
}


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

    name: Literal["heads", "lora"] = "lora"
    rank: int = 8
    alpha: float = 16.0
    learn_tokens: bool = True

    def __post_init__(self) -> None:
        if self.name not in _TARGETS:
            raise ValueError(f"the plan {self.name!r} is unknown; expected one of {', '.join(_TARGETS)}")
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
    """

    peft: PeftModel
    plan: Plan
    phrases: tuple[str, ...]
    base: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trainable parameters by name."""
        return {name: p for name, p in self.peft.named_parameters() if p.requires_grad}

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

    def save(self, folder: str | Path) -> Path:
        """Writes the adapter (peft's own files plus a manifest) and returns the folder; a few hundred KB.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.peft.save_pretrained(str(folder))
        manifest = {
            "format": _FORMAT,
            "plan": asdict(self.plan),
            "phrases": list(self.phrases),
            "base": self.base,
            "facts": self.facts,
        }
        write_text(folder / _MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False))
        return folder


def add_adapter(model: Sam3, plan: Plan, phrases: Sequence[str]) -> Adapter:
    """Freezes the model, puts a new adapter into it and returns the handle; outputs stay the same until it is trained.

    Args:
        model: changed in place.
        plan: what is trained.
        phrases: whose tokens get own vectors.

    Raises:
        ValueError: the model carries an adapter already.
    """
    from peft import LoraConfig, get_peft_model

    if getattr(model, "peft_config", None):
        raise ValueError("this model carries an adapter already; load the model anew, or go on with the adapter it has")
    base = fingerprint(model)
    tokens = token_ids(model, phrases) if plan.learn_tokens else []
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,  # type: ignore[arg-type]
        target_modules=_TARGETS[plan.name],
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

    folder = Path(folder)
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        plan = Plan(**manifest["plan"])
        phrases, base = tuple(manifest["phrases"]), manifest["base"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} holds no adapter of this workbench ({error}); expected the folder that `workbench adapt` wrote"
        ) from error
    if getattr(model, "peft_config", None):
        raise ValueError("this model carries an adapter already; load the model anew before loading another")
    if base != (found := fingerprint(model)):
        raise ValueError(
            f"the adapter in {folder} belongs to a model with fingerprint {base}, this one has {found}; load the model it "
            "was trained on, or adapt this one"
        )
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=True)  # type: ignore[arg-type]
    return Adapter(adapted, plan, phrases, base, manifest.get("facts", {}))


def token_ids(model: Sam3, phrases: Sequence[str]) -> list[int]:
    """Ids of the tokens of the phrases, without start, end and padding."""
    if not phrases:
        return []
    ids = model.tokenizer(list(phrases))
    special = {0, int(ids[0, 0]), int(model.tokenizer([""])[0, 1])}
    return sorted({int(i) for i in ids.flatten()} - special)


def fingerprint(model: Sam3) -> str:
    """Sixteen hex digits that tell weights apart: names, shapes and the first values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten()[:256].detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
