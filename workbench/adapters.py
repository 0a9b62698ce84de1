"""Small trainable additions to a frozen model: what is adapted, how it is switched off, saved, loaded and merged.

A `Plan` says where. Low-rank updates come from peft, learned words from `ConceptVectors`. The base weights never
change, so before and after are one model with a switch; only the plan "full" has to keep a second copy.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from sam3.model import Sam3
from workbench.adapter_files import Manifest, check_tensors, probe, read_manifest, read_tensors, write_adapter
from workbench.concept_vectors import ConceptVectors

if TYPE_CHECKING:
    from peft import PeftModel

PlanName = Literal["presence", "tokens", "decoder", "lora", "full"]


@dataclass(frozen=True)
class PlanKind:
    """What a plan trains: modules that get low-rank updates, whether words are learnt, and the usual learning rate."""

    summary: str
    adapted: tuple[str, ...] = ()
    learns_words: bool = False
    rate: float = 3e-3


PLANS: dict[str, PlanKind] = {
    "presence": PlanKind(
        "only whether a concept is there at all: repairs refusal", ("detector.decoder.presence_head",)
    ),
    "tokens": PlanKind("only the words of the phrases: a few KB, nothing else changes", (), True, 3e-2),
    "decoder": PlanKind("everything behind the two encoders, and the words", ("detector",), True),
    "lora": PlanKind("both encoders too, and the words", ("detector", "image_encoder.blocks"), True),
    "full": PlanKind("every weight but the tracker's; needs the most memory and pictures", (), False, 2e-4),
}
_TEXT_TOWER = "detector.text_encoder"
# Not adapted: 3x3 convolutions, and what a few pictures with phrases and boxes give no gradient to.
_LEFT_ALONE = ("detector.mask_head.convs", "detector.mask_head.semantic_conv", "detector.exemplar_encoder.point_")
# What pictures with phrases say nothing about.
_TRACKER = ("tracker.", "image_encoder.tracker_pyramid.")
_carriers: weakref.WeakSet[Sam3] = weakref.WeakSet()


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        name: one of `PLANS`. All but "lora" and "full" leave the image encoder as it is, so that picture features are
            computed once and kept.
        rank: of the low-rank updates; more can express more and needs more pictures.
        alpha: strength of the updates; they are scaled by alpha / rank.
    """

    name: PlanName = "decoder"
    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.name not in PLANS:
            raise ValueError(f"the plan {self.name!r} is unknown; expected one of {', '.join(get_args(PlanName))}")
        if self.rank < 1:
            raise ValueError(f"received rank {self.rank}; expected at least 1")

    @property
    def kind(self) -> PlanKind:
        return PLANS[self.name]

    @property
    def freezes_image_encoder(self) -> bool:
        return self.name not in ("lora", "full")


@dataclass(frozen=True)
class Adapter:
    """A handle on the trainable additions inside a model.

    Attributes:
        model: carries the additions.
        plan: what is trained.
        phrases: the phrases it was made for.
        base: fingerprint of the weights it belongs to.
        facts: anything worth keeping with it, such as metrics.
        peft: peft's view of the model, when the plan has low-rank updates.
        parameters: the trainable parameters by name.
    """

    model: Sam3
    plan: Plan
    phrases: tuple[str, ...]
    base: str
    facts: dict[str, Any] = field(default_factory=dict)
    peft: PeftModel | None = None
    parameters: dict[str, nn.Parameter] = field(init=False)
    _base_weights: dict[str, torch.Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        # Kept, since a disabled adapter has no parameter that requires a gradient.
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        object.__setattr__(self, "parameters", trainable)
        if self.plan.name == "full":
            self._base_weights.update(self.state())

    @property
    def num_trainable(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the trainable tensors, on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Puts back what `state` returned."""
        if self._base_weights and self.model.precision == "int8":
            raise ValueError(
                "the plan 'full' cannot be switched in int8, where the weights are no longer there; merge the adapter "
                "(`workbench merge`), then use int8"
            )
        parameters = self.parameters
        if parameters.keys() != state.keys():
            odd = sorted(parameters.keys() ^ state.keys())
            raise ValueError(f"the saved state does not fit this adapter; {len(odd)} tensors differ, such as {odd[0]}")
        for name, value in state.items():
            parameters[name].copy_(value)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within this context the model answers exactly as without the adapter."""
        words = self.model.detector.text_encoder.token_embed
        adapted = self.state() if self._base_weights else {}
        if self._base_weights:
            self.restore(self._base_weights)
        if isinstance(words, ConceptVectors):
            words.is_enabled = False
        try:
            with nullcontext() if self.peft is None else self.peft.disable_adapter():
                yield
        finally:
            if isinstance(words, ConceptVectors):
                words.is_enabled = True
            if adapted:
                self.restore(adapted)

    def save(self, folder: str | Path, state: dict[str, torch.Tensor] | None = None) -> Path:
        """Writes the adapter and returns the folder: a few hundred KB, a few KB for "tokens", everything for "full".

        Low-rank updates are written as peft writes them, so that peft reads them too. The manifest keeps what the
        adapter answers to a small test picture; `load_adapter` asks again and compares.

        Args:
            folder: replaced as a whole if it exists.
            state: an earlier `state()` to write in place of the present one.

        Raises:
            OSError: the folder cannot be written; an older one is left as it was.
        """
        present = self.state()
        tensors = present if state is None else state
        self.restore(tensors)
        answers = probe(self.model, self.phrases)
        self.restore(present)
        manifest = Manifest.of(asdict(self.plan), self.phrases, self.base, self.facts, tensors, answers)
        config = None if self.peft is None else self.peft.peft_config["default"]
        write_adapter(Path(folder), manifest, tensors, config)
        return Path(folder)


def add_adapter(model: Sam3, plan: Plan, phrases: Sequence[str]) -> Adapter:
    """Freezes the model, puts a new adapter into it and returns the handle; outputs stay the same until it is trained.

    Args:
        model: changed in place.
        plan: what is trained.
        phrases: whose words are learnt, when the plan learns words.

    Raises:
        ValueError: the model carries an adapter already, or the plan learns words and there are none.

    Example:
        >>> from sam3 import Sam3Config
        >>> adapter = add_adapter(Sam3(Sam3Config.tiny()), Plan("tokens"), ["gold coin"])
        >>> {name: tuple(values.shape) for name, values in adapter.parameters.items()}
        {'detector.text_encoder.token_embed.offsets': (2, 64)}
    """
    _check_trainable(model)
    if model in _carriers:
        raise ValueError("this model carries an adapter already; load the model anew, or go on with the adapter it has")
    if plan.kind.learns_words and not phrases:
        raise ValueError(f"the plan {plan.name!r} learns the words of the phrases; give at least one phrase")
    base, peft = fingerprint(model), None
    model.requires_grad_(False)
    if plan.name == "full":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(_TRACKER))
    if plan.kind.adapted:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=plan.rank,
            lora_alpha=plan.alpha,  # type: ignore[arg-type]
            target_modules=adapted_layers(model, plan),
        )
        peft = get_peft_model(model, config)  # type: ignore[arg-type]
    if plan.kind.learns_words:
        text = model.detector.text_encoder
        text.token_embed = ConceptVectors(text.token_embed, model.tokenizer(list(phrases)))  # type: ignore[assignment]
    _carriers.add(model)
    return Adapter(model, plan, tuple(phrases), base, peft=peft)  # type: ignore[arg-type]


def load_adapter(model: Sam3, folder: str | Path) -> Adapter:
    """Puts a saved adapter into the model it was trained on.

    Raises:
        ValueError: the folder holds no adapter, one for other weights, or one whose file is not what was saved: cut
            short, renamed, of another rank or type, mixed up. Nothing is loaded then.
    """
    manifest = read_manifest(folder)
    _check_trainable(model)
    if model in _carriers:
        raise ValueError("this model carries an adapter already; load the model anew before loading another")
    if manifest.base != (found := fingerprint(model)):
        raise ValueError(
            f"the adapter in {folder} belongs to a model with fingerprint {manifest.base}, this one has {found}; load "
            "the model it was trained on, or adapt this one"
        )
    plan, tensors = Plan(**manifest.plan), read_tensors(folder)
    check_tensors(folder, manifest, tensors)
    adapter = add_adapter(model, plan, manifest.phrases)
    try:
        adapter.restore(tensors)
        adapter.facts.update(manifest.facts)
        manifest.compare_probe(folder, probe(model, manifest.phrases), model.dtype)
    except ValueError:
        remove_adapter(adapter)
        raise
    return adapter


def merge(adapter: Adapter) -> Sam3:
    """Folds the adapter into the weights and returns the model, now an ordinary one that `sam3.save` can write.

    Learned words become those of every phrase that uses them. The handle is of no use afterwards.

    Raises:
        ValueError: two phrases learnt different vectors for a word they share; nothing is changed then.
    """
    model, text = adapter.model, adapter.model.detector.text_encoder
    if isinstance(text.token_embed, ConceptVectors):
        text.token_embed = text.token_embed.folded(adapter.phrases)
    if adapter.peft is not None:
        adapter.peft.merge_and_unload()  # type: ignore[operator]
    _forget(model)
    return model


def remove_adapter(adapter: Adapter) -> Sam3:
    """Takes the adapter out of the model, which is then as it was before, and returns the model."""
    model, text = adapter.model, adapter.model.detector.text_encoder
    if adapter._base_weights:
        adapter.restore(adapter._base_weights)
    if isinstance(text.token_embed, ConceptVectors):
        text.token_embed = text.token_embed.embedding
    if adapter.peft is not None:
        adapter.peft.unload()  # type: ignore[operator]
    _forget(model)
    return model


def _check_trainable(model: Sam3) -> None:
    if model.precision == "int8":
        raise ValueError(
            "this model is in int8, where nothing can be trained or put in; load it in fp32, put the adapter in, then "
            "call sam3.speed.set_precision"
        )


def _forget(model: Sam3) -> None:
    _carriers.discard(model)
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(True)


def adapted_layers(model: Sam3, plan: Plan) -> list[str]:
    """Names of the linear and convolution layers that get low-rank updates."""
    left_alone = _LEFT_ALONE if plan.name == "lora" else (*_LEFT_ALONE, _TEXT_TOWER)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and name.startswith(plan.kind.adapted)
        and not name.startswith(left_alone)
    ]


def fingerprint(model: Sam3) -> str:
    """Sixteen hex digits that tell weights apart, in whatever precision but int8: names, shapes and 256 values of every
    tensor."""
    digest = hashlib.sha256()
    for name, entry in sorted(model.state_dict().items()):
        tensor = entry[0].dequantize() if isinstance(entry, tuple) else entry  # weight and bias of a layer in int8
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        values = tensor.detach().flatten()
        values = values[:: max(1, len(values) // 256)][:256].bfloat16().float()
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
