"""The training loop: it learns, repeats itself exactly, goes on exactly where it stopped and keeps what is finished."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sam3.checkpoint import load_sam3
from sam3.layers import Attention
from workbench.adapters import Plan, add_adapter, load_adapter
from workbench.batches import ViewPool, ask, bytes_per_view, prompt_of, targets_of
from workbench.examples import ExampleSet
from workbench.finetune import FinetuneConfig, FinetuneResult, finetune, rate_factor

CONFIG = FinetuneConfig(steps=7, images=2, phrases=3, views=3, warmup=2, checkpoint_every=3, exemplar_share=0.5)
PLAN = Plan("lora", rank=2)


class Training:
    """Training of a fresh copy of the small model in a folder."""

    def __init__(self, weights: Path, examples: ExampleSet, plan: Plan = PLAN) -> None:
        self.weights, self.examples, self.plan = weights, examples, plan

    def run(
        self, out: Path, config: FinetuneConfig = CONFIG, *, start: int = 0, stop_after: int = 0, **arguments: Any
    ) -> FinetuneResult | None:
        model = load_sam3(self.weights)
        torch.manual_seed(start)
        self.adapter = add_adapter(model, self.plan, ("disc", "bar"))
        if not stop_after:
            return finetune(model, self.adapter, self.examples, out, config, progress=False, **arguments)

        def stop(line: dict[str, Any]) -> None:
            if line["step"] == stop_after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            finetune(model, self.adapter, self.examples, out, config, progress=False, on_step=stop)
        return None

    def saved(self, folder: Path) -> dict[str, torch.Tensor]:
        return load_adapter(load_sam3(self.weights), folder).state()


@pytest.fixture
def training(small_weights, drawn) -> Training:
    return Training(small_weights, drawn)


@pytest.fixture(scope="module")
def finished(small_weights, drawn, tmp_path_factory) -> tuple[Path, FinetuneResult]:
    """The folder of a run that nothing disturbed, not to be changed, and what it gave."""
    out = tmp_path_factory.mktemp("finished") / "whole"
    return out, Training(small_weights, drawn).run(out)


@pytest.fixture
def whole(finished) -> Path:
    return finished[0]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("stop_after", [1, 5])
def test_an_interrupted_run_goes_on_to_the_same_weights_bit_for_bit(training, whole, tmp_path, stop_after):
    parted = tmp_path / "parted"
    training.run(parted, stop_after=stop_after)
    assert len(log_of(parted)) == stop_after
    half = training.saved(parted / "adapter")
    result = training.run(parted, start=1)  # the state decides, not the random numbers the adapter starts from
    assert result.was_resumed and result.steps == 7
    assert_same(training.saved(parted / "adapter"), training.saved(whole / "adapter"))
    assert_same(training.saved(parted / "adapter"), training.adapter.state())
    assert_same(training.saved(parted / "adapter_best"), training.saved(whole / "adapter_best"))
    assert any(not torch.equal(half[key], value) for key, value in training.adapter.state().items())
    keys = log_of(whole)[0].keys() - {"seconds"}
    assert [[line[key] for key in keys] for line in log_of(whole)] == [
        [line[key] for key in keys] for line in log_of(parted)
    ]


def test_cached_features_give_the_same_result_when_a_run_goes_on(small_weights, drawn, tmp_path):
    training = Training(small_weights, drawn, Plan("decoder", rank=2))
    training.run(tmp_path / "whole")
    training.run(tmp_path / "parted", stop_after=4)
    training.run(tmp_path / "parted")
    assert_same(training.saved(tmp_path / "parted" / "adapter"), training.saved(tmp_path / "whole" / "adapter"))


def test_a_finished_run_is_not_repeated(training, finished):
    out, first = finished
    steps: list[dict[str, Any]] = []
    again = training.run(out, on_step=steps.append)
    assert steps == []
    assert (again.steps, again.seconds, again.was_resumed) == (first.steps, first.seconds, True)
    assert_same(training.adapter.state(), training.saved(out / "adapter"))


def test_training_lowers_the_loss(training, tmp_path):
    config = FinetuneConfig(steps=24, images=6, phrases=3, views=1, rate=2e-2, exemplar_share=0.0, warmup=3)
    result = training.run(tmp_path, config)
    losses = [line["loss"] for line in log_of(tmp_path)]
    assert "mask" in log_of(tmp_path)[0] and "semantic" not in log_of(tmp_path)[0]  # terms that count
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:4])
    assert isinstance(result, FinetuneResult)
    assert result.best_value == pytest.approx(min(np.mean(losses[i : i + 10]) for i in range(15)))
    assert result.best_step >= 10 and result.seconds > 0 and not result.was_resumed


def test_the_best_adapter_of_a_very_short_run_is_its_last(training, finished):
    out, result = finished
    assert result.best_step == 7
    assert_same(training.saved(out / "adapter_best"), training.saved(out / "adapter"))


def test_other_settings_pictures_or_phrases_in_the_same_folder_are_refused(training, tmp_path):
    training.run(tmp_path, stop_after=1)
    with pytest.raises(ValueError, match="holds a run with other settings, pictures or weights"):
        training.run(tmp_path, FinetuneConfig(steps=8))
    drawn = training.examples
    relabelled = replace(drawn[0], concepts=drawn[0].concepts[1:])
    repainted = replace(drawn[0], image=255 - drawn[0].load_image())
    for examples in (drawn.examples[:4], (relabelled, *drawn.examples[1:]), (repainted, *drawn.examples[1:])):
        training.examples = replace(drawn, examples=examples)
        with pytest.raises(ValueError, match="choose another folder, or delete it to start anew"):
            training.run(tmp_path)


def test_a_damaged_state_is_named(training, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(ValueError, match="state.pt is damaged"):
        training.run(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state_before_it(training, tmp_path):
    def break_next(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            self_attention = next(p for key, p in training.adapter.parameters.items() if "lora_A" in key)
            with torch.no_grad():
                self_attention.fill_(float("nan"))

    with pytest.raises(FloatingPointError, match="not finite in 4 attempts"):
        training.run(tmp_path / "broken weights", on_step=break_next)
    assert not (tmp_path / "broken weights" / "adapter").exists()  # nothing was due yet, and NaN is not worth keeping


def test_a_run_that_broke_goes_back_to_its_last_state_with_half_the_rate(training, whole, tmp_path, capsys):
    """As a rate that is a little too high does; here a weight breaks once."""
    broken: list[int] = []

    def break_once(line: dict[str, Any]) -> None:
        if line["step"] == 5 and not broken:
            broken.append(5)
            with torch.no_grad():
                next(p for key, p in training.adapter.parameters.items() if "lora_A" in key).fill_(float("nan"))

    result = training.run(tmp_path, on_step=break_once)
    assert (result.steps, result.rollbacks) == (7, 1)
    assert "step 6: the loss or its gradient is not finite; back to step 3, on with 0.5 times the rate" in str(
        capsys.readouterr()
    )
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    assert all(value.isfinite().all() for value in training.saved(tmp_path / "adapter").values())
    rates = [torch.linalg.vector_norm(t).item() for t in training.saved(whole / "adapter").values()]
    assert rates != [torch.linalg.vector_norm(t).item() for t in training.saved(tmp_path / "adapter").values()]


def test_held_out_pictures_choose_the_best_state_and_end_the_run(training, tmp_path, monkeypatch):
    values = iter([0.2, 0.5, 0.4, 0.45, 0.9])
    states: list[dict[str, torch.Tensor]] = []

    def measured(model, examples, **_):
        states.append(training.adapter.state())
        return SimpleNamespace(records=())

    monkeypatch.setattr(sys.modules["workbench.finetune"], "evaluate", measured)
    monkeypatch.setattr(sys.modules["workbench.finetune"], "metrics_of", lambda records: {"cgF1": next(values)})
    config = replace(CONFIG, steps=20, validate_every=2, patience=2)
    result = training.run(tmp_path, config, held_out=training.examples[:2])
    assert (result.steps, result.best_step, result.best_value) == (8, 4, 0.5)
    assert_same(training.adapter.state(), states[1])
    assert_same(training.saved(tmp_path / "adapter_best"), states[1])
    assert [line["held_out_cgF1"] for line in log_of(tmp_path) if "held_out_cgF1" in line] == [0.2, 0.5, 0.4, 0.45]
    again = training.run(tmp_path, config, held_out=training.examples[:2])
    assert (again.steps, again.was_resumed) == (8, True)


def test_a_real_measurement_is_taken_on_held_out_pictures(training, tmp_path):
    config = replace(CONFIG, steps=2, validate_every=1)
    training.run(tmp_path, config, held_out=training.examples[:2])
    assert all(0 <= line["held_out_cgF1"] <= 1 for line in log_of(tmp_path))


def test_pictures_worked_off_a_few_at_a_time_give_the_same_weights(training, tmp_path):
    config = replace(CONFIG, steps=4, images=5, one_to_many=True)
    training.run(tmp_path / "together", config)
    together = training.adapter.state()
    for at_once in (1, 2):
        parts = tmp_path / f"{at_once} at once"
        training.run(parts, replace(config, images_at_once=at_once))
        for key, value in training.adapter.state().items():
            torch.testing.assert_close(value, together[key], atol=1e-5, rtol=1e-4)
        for one, other in zip(log_of(tmp_path / "together"), log_of(parts), strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_layers_computed_again_give_the_same_weights(small_weights, drawn, tmp_path):
    training = Training(small_weights, drawn, Plan("lora", rank=2))
    training.run(tmp_path / "kept", replace(CONFIG, steps=3))
    kept = training.adapter.state()
    training.run(tmp_path / "again", replace(CONFIG, steps=3, recompute=True))
    assert_same(training.adapter.state(), kept)
    assert not any(getattr(module, "recomputes", False) for module in training.adapter.model.modules())


WORKER = """
import sys
from pathlib import Path
import torch
from sam3.checkpoint import load_sam3
from workbench.adapters import Plan, add_adapter
from workbench.examples import ExampleSet
from workbench.finetune import FinetuneConfig, finetune
weights, folder, out = map(Path, sys.argv[1:])
torch.set_num_threads(1)
torch.manual_seed(0)
examples = ExampleSet.from_coco(folder / "learn.json", folder / "images").with_absent(["star"])
model = load_sam3(weights)
adapter = add_adapter(model, Plan("decoder", rank=2), ("disc", "bar"))
finetune(model, adapter, examples, out, FinetuneConfig(steps=4, images=3, views=2, warmup=2), progress=False)
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(small_weights, project, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    for count in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), str(script)]
        arguments = [str(small_weights), str(project.folder), str(tmp_path / f"by {count}")]
        subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True, timeout=300)
    # Not the weights themselves: where a gradient is nothing but rounding, AdamW makes a full step of it.
    logs = [log_of(tmp_path / f"by {count}") for count in (1, 2)]
    assert len(logs[0]) == 4
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys() and (one["present"], one["absent"]) == (two["present"], two["absent"])
        for name in one.keys() - {"seconds", "step"}:
            assert two[name] == pytest.approx(one[name], rel=5e-3, abs=1e-5), name


def test_an_interrupt_within_an_update_keeps_the_files_of_the_last_checkpoint(training, whole, tmp_path, monkeypatch):
    """Weights that moved without their step being counted would be moved twice when the run goes on."""
    parted = tmp_path / "parted"
    real, calls = torch.optim.AdamW.step, []

    def interrupted(self, *arguments, **keywords):
        real(self, *arguments, **keywords)
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.run(parted)
    monkeypatch.undo()
    assert len(log_of(parted)) == 3
    training.run(parted)
    assert_same(training.saved(parted / "adapter"), training.saved(whole / "adapter"))


def test_a_full_disk_is_reported_and_the_last_checkpoint_stays(training, tmp_path, monkeypatch):
    training.run(tmp_path, stop_after=3)
    kept = training.saved(tmp_path / "adapter")

    def full(path, write):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(sys.modules["workbench.run_state"], "write_atomically", full)
    with pytest.raises(OSError, match="No space left on device"):
        training.run(tmp_path)
    monkeypatch.undo()
    assert_same(training.saved(tmp_path / "adapter"), kept)
    assert training.run(tmp_path).steps == 7


def test_pictures_without_any_object_are_refused(small_weights, drawn, tmp_path):
    empty = ExampleSet("empty", tuple(e for e in drawn if all(c.status != "positive" for c in e.concepts)))
    assert len(empty) > 0
    with pytest.raises(ValueError, match="'empty' shows no object at all"):
        Training(small_weights, empty).run(tmp_path)


def test_every_picture_is_seen_equally_often_and_absent_phrases_get_their_share(small_weights, drawn):
    model = load_sam3(small_weights)
    config = FinetuneConfig(images=2, phrases=2, absent_share=0.5, views=4, exemplar_share=0.3)
    pool = ViewPool(model, drawn, config, is_frozen=True)
    pictures, present, shown, total = [], 0, 0, 0
    for step in range(60):
        keys, asked = ask(pool, config, np.random.default_rng([0, step]), step)
        pictures += [picture for picture, _ in keys]
        present += sum(a.concept.is_present for a in asked)
        labels = [[*a.prompt.exemplar_labels, *a.prompt.exemplar_point_labels] for a in asked]
        shown += sum(1 in found for found in labels)
        total += len(asked)
        assert all(a.concept.is_present or 1 not in found for a, found in zip(asked, labels, strict=True))
    assert np.bincount(pictures).tolist() == [20] * 6
    assert 0.35 < present / total < 0.5  # one of the six pictures shows nothing
    assert 0.2 < shown / present < 0.4


def test_without_absent_phrases_pictures_that_show_nothing_are_left_out(small_weights, drawn):
    """One picture at a time, so that one of them would have no question at all."""
    config = FinetuneConfig(images=1, views=4, absent_share=0.0)
    pool = ViewPool(load_sam3(small_weights), drawn, config, is_frozen=True)
    pictures = set()
    for step in range(30):
        keys, asked = ask(pool, config, np.random.default_rng([0, step]), step)
        pictures |= {picture for picture, _ in keys}
        assert asked and all(a.concept.is_present for a in asked)
    assert len(drawn) == 6 and len(pictures) == 5


def test_a_run_on_positives_alone_goes_through(training, tmp_path):
    result = training.run(tmp_path, replace(CONFIG, absent_share=0.0, images_at_once=1))
    assert result is not None and {line["absent"] for line in log_of(tmp_path)} == {0}


def test_exemplars_lie_on_objects_of_the_concept_or_of_others(small_weights, drawn):
    pool = ViewPool(load_sam3(small_weights), drawn, CONFIG, is_frozen=True)
    kinds: Counter[tuple[str, int]] = Counter()
    for picture in range(len(drawn)):
        concepts = pool.view(picture, 0).concepts
        for seed in range(40):
            for concept in concepts:
                prompt = prompt_of(concept, concepts, pool.size, 1.0, np.random.default_rng(seed))
                own = concept.masks.any(0)
                others = np.any([c.masks.any(0) for c in concepts if c is not concept] or [own & False], axis=0)
                for label, (x0, y0, x1, y1) in zip(prompt.exemplar_labels, prompt.exemplar_boxes_xyxy_px, strict=True):
                    row, column = (round(v / pool.size * pool.mask_size) for v in ((y0 + y1) / 2, (x0 + x1) / 2))
                    assert (own if label else others)[row, column]
                    kinds["box", label] += 1
                for label, (x, y) in zip(prompt.exemplar_point_labels, prompt.exemplar_points_xy_px, strict=True):
                    row, column = (int(v / pool.size * pool.mask_size) for v in (y, x))
                    assert (own if label else others)[row, column]
                    kinds["point", label] += 1
    assert set(kinds) == {("box", 0), ("box", 1), ("point", 0), ("point", 1)}
    assert kinds["box", 1] > 2 * kinds["point", 1]


def test_targets_hold_boxes_and_masks_of_all_questions_in_order(small_weights, drawn):
    pool = ViewPool(load_sam3(small_weights), drawn, CONFIG, is_frozen=True)
    _, asked = ask(pool, CONFIG, np.random.default_rng(0), 0)
    targets = targets_of(asked, pool.mask_size, torch.device("cpu"))
    assert targets.num_pairs == len(asked)
    assert targets.pair.tolist() == [i for i, a in enumerate(asked) for _ in a.concept.boxes_xyxy]
    for row, (x, y, w, h) in enumerate(targets.boxes_cxcywh.tolist()):
        inside = torch.nonzero(targets.masks[row]) / pool.mask_size  # (row, column) of the object's pixels
        assert (inside.amin(0) - torch.tensor([y - h / 2, x - w / 2])).abs().max() < 0.05
        assert (inside.amax(0) - torch.tensor([y + h / 2, x + w / 2])).abs().max() < 0.05


def test_features_are_kept_only_while_the_encoder_is_frozen(small_weights, drawn, monkeypatch):
    model = load_sam3(small_weights)
    calls = []
    model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    for is_frozen, expected in ((True, 2), (False, 4)):
        calls.clear()
        pool = ViewPool(model, drawn, CONFIG, is_frozen=is_frozen)
        for _ in range(2):
            pool.features([(0, 1)])
            pool.features([(1, 2)])
        assert len(calls) == expected


def test_kept_features_stay_within_their_memory(small_weights, drawn):
    model = load_sam3(small_weights)
    each = sum(level.nbytes for level in model.image_encoder(torch.zeros(1, 3, 32, 32)).pyramid)
    assert bytes_per_view(model) == each
    for room, expected in ((100, (True, 3)), (2.5, (True, 2)), (1.5, (False, 3)), (0, (False, 3))):
        config = replace(CONFIG, cache_gb=room * each * len(drawn) / 1e9)
        pool = ViewPool(model, drawn, config, is_frozen=True)
        assert (pool.keeps_features, pool.num_views) == expected
        keys = {key for step in range(60) for key in ask(pool, config, np.random.default_rng(step), step)[0]}
        assert max(number for _, number in keys) == pool.num_views - 1
    with pytest.raises(ValueError, match="cache_gb=-1"):
        FinetuneConfig(cache_gb=-1)


def test_the_rate_warms_up_and_falls_to_a_fiftieth():
    factors = [rate_factor(step, 100, 10) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and max(factors) > 0.97 and factors[100] == pytest.approx(0.02)
    assert all(a < b for a, b in zip(factors[:9], factors[1:10], strict=True))
    assert all(a > b for a, b in zip(factors[10:-1], factors[11:], strict=True))


def test_no_attention_weight_is_dropped_while_everything_else_trains(small_weights, drawn, tmp_path, monkeypatch):
    """Dropping them would keep a matrix of all cells by all cells in memory for every layer and phrase."""
    model = load_sam3(small_weights)
    dropped, modes = [], set()
    for module in model.modules():
        if isinstance(module, Attention):
            module.dropout = 0.5
    attend = torch.nn.functional.scaled_dot_product_attention

    def note(*tensors, dropout_p=0.0, **more):
        dropped.append(dropout_p)
        modes.add((model.training, model.detector.fusion_encoder.layers[0].dropout.training))
        return attend(*tensors, dropout_p=dropout_p, **more)

    monkeypatch.setattr("sam3.layers.F.scaled_dot_product_attention", note)
    adapter = add_adapter(model, Plan("lora", rank=2), ("disc", "bar"))
    finetune(model, adapter, drawn, tmp_path, FinetuneConfig(steps=1, images=1, phrases=1, views=1), progress=False)
    assert (True, True) in modes and dropped and not any(dropped)
