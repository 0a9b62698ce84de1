"""Pre-training from start to finish, and the table that says what came out: metrics over held-out scenes."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from sam3.checkpoint import load_sam3, save
from sam3.config import Sam3Config
from sam3.files import write_text
from sam3.model import Sam3
from sam3.predictor import ImagePredictor
from sam3.prompts import Prompt
from workbench.domains import shapes
from workbench.domains.shapes import Phrase
from workbench.evaluate import PairRecord, evaluate, metrics_of
from workbench.examples import Concept, Example, ExampleSet
from workbench.pretrain.run import PretrainConfig, Run, join_processes

HELD_OUT_SEED = 990_001
_SHOWN = ("cgF1", "pmF1", "IL_MCC", "IL_FPR", "mIoU_hits")


def pretrain(
    out: str | Path,
    config: PretrainConfig | None = None,
    *,
    model_config: Sam3Config | None = None,
    device: str | torch.device | None = None,
    start: str | Path | None = None,
    num_scenes: int = 100,
) -> Path:
    """Trains a small model from nothing; writes `model.safetensors` (fp16), `held_out.json`, `log.jsonl`, `state.pt`.

    A run found in the folder is continued. Started by `torchrun`, the processes share the work.

    Args:
        out: folder of the run.
        config: the recipe.
        model_config: default `Sam3Config.tiny()` without a tracker, which `pretrain_tracker` adds.
        device: default CUDA when there is one, else the CPU.
        start: weights to begin stage 2 with, leaving stage 1 out; whatever `load_sam3` takes.
        num_scenes: held-out scenes of the final measurement, eight pairs each.

    Returns:
        Path of the weights.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    initial = None if start is None else load_sam3(start)
    config = config or PretrainConfig()
    model_config = model_config or (Sam3Config.tiny().without_tracker() if initial is None else initial.config)
    chosen = join_processes(device)
    validation = shapes.held_out_set(25, HELD_OUT_SEED - 1)

    def validate(model: Sam3) -> dict[str, float]:
        records = evaluate(ImagePredictor(model), validation, model_name="pretrain", progress=False).records
        return {f"{name}@{bar}": metrics_of(records, bar)[name] for bar in (0.3, 0.5) for name in _SHOWN}

    run = Run(out, config, model_config, chosen, initial)
    model = run.train(validate)
    path = out / "model.safetensors"
    if run.rank == 0:
        validation = shapes.held_out_set(60, HELD_OUT_SEED - 2)
        shift, factor = calibrate(model, validation)
        metadata = {"name": "tiny", "recipe": json.dumps(asdict(config))}
        save(model, path, dtype=torch.float16, metadata=metadata)
        table = held_out_table(model.half().float(), num_scenes=num_scenes) | {
            "recipe": asdict(config),
            "calibration": {"scenes": len(validation), "presence_shift": shift, "match_factor": factor},
            "parameters": sum(p.numel() for p in model.parameters()),
            "queries": model_config.detector.num_queries,
        }
        write_text(out / "held_out.json", json.dumps(table, indent=2))
    if dist.is_initialized():
        dist.barrier()
    return path


def calibrate(model: Sam3, validation: ExampleSet, *, progress: bool = True) -> tuple[float, float]:
    """Shifts presence and sharpens match scores so that 0.5 is the best threshold, and returns both numbers.

    A score is a product of two probabilities and therefore too modest at first. The best shift of the presence logit
    and the best factor of the match logit are looked up on validation scenes by cgF1 and folded into the weights.
    """
    records = evaluate(ImagePredictor(model), validation, model_name="calibration", progress=progress).records

    def adjusted(record: PairRecord, shift: float, factor: float) -> PairRecord:
        presence = _sigmoid(_logit(record.presence_score) + shift)
        match = (_logit(score / max(record.presence_score, 1e-6)) for score in record.scores)
        return replace(record, presence_score=presence, scores=tuple(presence * _sigmoid(factor * m) for m in match))

    candidates = [(shift / 4, factor) for shift in range(-6, 11) for factor in (0.7, 1.0, 1.4, 2.0)]
    shift, factor = max(candidates, key=lambda c: metrics_of([adjusted(record, *c) for record in records], 0.5)["cgF1"])
    scoring, presence_head = model.detector.scoring, model.detector.decoder.presence_head.layers[-1]
    assert isinstance(presence_head, nn.Linear)
    with torch.no_grad():
        scoring.project_query.weight.mul_(factor)
        scoring.project_query.bias.mul_(factor)
        presence_head.bias.add_(shift)
    return shift, factor


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _logit(probability: float) -> float:
    clamped = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(clamped / (1 - clamped))


def held_out_table(
    model: Sam3, *, num_scenes: int = 100, seed: int = HELD_OUT_SEED, progress: bool = True
) -> dict[str, Any]:
    """What a model makes of scenes it never saw.

    Every scene is asked for four true and four absent phrases, most of them look-alikes. The same positives are asked
    again with exemplars, the absent phrases staying as they are.

    Returns:
        `text` at several thresholds, `by_form` (which attributes the phrase names), `exemplars`, and counts.
    """
    phrases: dict[tuple[str, str], Phrase] = {}
    examples = []
    for index in range(num_scenes):
        rng = np.random.default_rng([seed, index])
        scene = shapes.render_scene(rng)
        asked = shapes.sample_phrases(rng, scene, 4, 4)
        example = shapes.scene_to_example(scene, asked, f"held-out-{index:05d}")
        phrases.update({(example.image_id, phrase.text): phrase for phrase in asked})
        examples.append(example)
    data = ExampleSet(name=f"held-out scenes, seed {seed}", examples=tuple(examples))
    predictor = ImagePredictor(model)
    start = time.perf_counter()
    by_text = evaluate(predictor, data, model_name="phrase", progress=progress)
    seconds = time.perf_counter() - start
    forms: dict[str, list[PairRecord]] = {}
    for record in by_text.records:
        phrase = phrases[record.image_id, record.phrase]
        named = [a for a in ("size", "texture", "colour", "kind") if getattr(phrase, a) is not None]
        forms.setdefault(" + ".join(named), []).append(record)

    def shown(
        concept: Concept, example: Example, count: int, *, with_phrase: bool, with_negative: bool
    ) -> Prompt | str:
        if concept.status != "positive":
            return concept.phrase
        others = [
            box
            for other in example.concepts
            for box in other.boxes_xyxy_px
            if not any(_share_covered(box, own) > 0.3 for own in concept.boxes_xyxy_px)
        ]
        boxes, labels = list(concept.boxes_xyxy_px[:count]), [1] * min(count, len(concept.boxes_xyxy_px))
        if with_negative and others:
            boxes, labels = [*boxes, others[0]], [*labels, 0]
        return Prompt(concept.phrase if with_phrase else None, np.stack(boxes), labels)

    def ask_again(**how: Any) -> dict[str, float]:
        answers = evaluate(
            predictor,
            data,
            model_name="exemplars",
            progress=progress,
            prompt_for=lambda example, concept: shown(concept, example, **how),
        )
        return _values(list(answers.records), 0.5)

    return {
        "data": data.name,
        "scenes": num_scenes,
        "pairs": len(by_text.records),
        "positive_pairs": sum(r.num_truth > 0 for r in by_text.records),
        "seconds_per_picture": seconds / num_scenes,
        "text": {str(bar): _values(list(by_text.records), bar) for bar in (0.3, 0.4, 0.5, 0.6)},
        "by_form": {form: {"pairs": len(rows), **_values(rows, 0.5)} for form, rows in sorted(forms.items())},
        "exemplars": {
            "phrase only": _values(list(by_text.records), 0.5),
            "phrase + 1 positive box": ask_again(count=1, with_phrase=True, with_negative=False),
            "phrase + 1 positive + 1 negative box": ask_again(count=1, with_phrase=True, with_negative=True),
            "1 positive box alone": ask_again(count=1, with_phrase=False, with_negative=False),
            "1 positive + 1 negative box alone": ask_again(count=1, with_phrase=False, with_negative=True),
        },
    }


def _values(records: list[PairRecord], threshold: float) -> dict[str, float]:
    metrics = metrics_of(records, threshold)
    return {name: round(float(metrics[name]), 4) for name in _SHOWN}


def _share_covered(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    intersection = np.clip(high - low, 0, None).prod()
    return float(intersection / max((a[2:] - a[:2]).prod(), 1e-9))
