"""The doctor finds what is there, and says what to do about what is not."""

from __future__ import annotations

import re

import pytest
import torch

from workbench.doctor import examine


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="number formats are weighed up on machines without a GPU")
def test_number_formats_are_measured_and_the_quick_ones_advised(tmp_path, monkeypatch):
    assert all(share > 0 for share in map(float, re.findall(r"(?:bf16|int8) ([0-9.]+)", measured(tmp_path).detail)))
    monkeypatch.setattr("sam3.speed.precision_times", lambda: {"fp32": 0.2, "bf16": 0.8, "int8": 0.1})
    finding = measured(tmp_path)
    assert finding.detail.startswith("bf16 4.00, int8 0.50") and finding.advice.endswith("with --precision int8")
    monkeypatch.setattr("sam3.speed.precision_times", lambda: {"fp32": 0.2, "bf16": 0.8, "int8": 0.2})
    assert not measured(tmp_path).advice


def measured(folder):
    return named(examine(folder), "precision")
