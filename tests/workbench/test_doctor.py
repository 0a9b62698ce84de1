"""The doctor finds what is there, and says what to do about what is not."""

from __future__ import annotations

import re

import pytest
import torch

from sam3.speed import precision_times
from workbench.doctor import examine


@pytest.fixture(autouse=True)
def measured_before(monkeypatch):
    """Number formats are weighed up in the one test that is about it; elsewhere these times stand in."""
    monkeypatch.setattr("sam3.speed.precision_times", lambda: {"fp32": 0.2, "bf16": 0.1, "int8": 0.1})


def named(findings, name):
    return next(finding for finding in findings if finding.name == name)


def test_a_machine_on_which_the_tests_run_is_good_enough(tmp_path):
    findings = examine(tmp_path / "not" / "yet" / "there")
    assert not [str(f) for f in findings if f.verdict == "bad"]
    assert named(findings, "torch").detail == torch.__version__
    assert named(findings, "weights").detail == "tiny: 7.9 million parameters"
    assert "GB free at" in named(findings, "disk").detail
    assert all(f.advice for f in findings if f.verdict == "note")


def test_weights_that_are_missing_or_broken_are_told_apart(tmp_path, monkeypatch):
    broken = tmp_path / "weights.safetensors"
    broken.write_bytes(b"nothing")
    assert named(examine(tmp_path, str(broken)), "weights").verdict == "bad"
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    hub = named(examine(tmp_path, "facebook/sam3"), "weights")
    assert hub.verdict == "bad" and "accept the licence" in hub.advice and "hf auth login" in hub.advice
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    assert named(examine(tmp_path, "facebook/sam3"), "weights").verdict == "note"


@pytest.mark.parametrize(("free", "verdict"), [(1e9, "bad"), (5e9, "note"), (64e9, "good")])
def test_memory_is_judged_by_what_is_free(tmp_path, monkeypatch, free, verdict):
    import psutil

    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=int(free)))
    assert named(examine(tmp_path), "memory").verdict == verdict


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**12, 10**12 - 10**8, 10**8))
    assert named(examine(tmp_path), "disk").verdict == "bad"


HAS_GPU = torch.cuda.is_available() or torch.backends.mps.is_available()
without_gpu = pytest.mark.skipif(HAS_GPU, reason="number formats are weighed up on machines without a GPU")


@without_gpu
def test_number_formats_are_measured_and_the_quick_ones_advised(tmp_path, monkeypatch):
    monkeypatch.setattr("sam3.speed.precision_times", lambda: precision_times(256, 256))
    shares = re.findall(r"(?:bf16|int8) ([0-9.]+)", measured(tmp_path).detail)
    assert len(shares) == 2 and all(float(share) >= 0 for share in shares)
    monkeypatch.setattr("sam3.speed.precision_times", lambda: {"fp32": 0.2, "bf16": 0.8, "int8": 0.1})
    finding = measured(tmp_path)
    assert finding.detail.startswith("bf16 4.00, int8 0.50") and finding.advice.endswith("with --precision int8")
    monkeypatch.setattr("sam3.speed.precision_times", lambda: {"fp32": 0.2, "bf16": 0.8, "int8": 0.2})
    assert not measured(tmp_path).advice


@without_gpu
def test_a_pytorch_without_int8_is_no_end_of_the_examination(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("Didn't find engine for operation quantized::linear_prepack NoQEngine\nfrom somewhere")

    monkeypatch.setattr("sam3.speed.precision_times", fail)
    finding = measured(tmp_path)
    assert finding.verdict == "note" and "NoQEngine)" in finding.detail and "--precision fp32" in finding.advice


def measured(folder):
    return named(examine(folder), "precision")
