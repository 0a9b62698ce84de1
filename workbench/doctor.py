"""Checks whether this machine can do what the workbench does, and says what to do where it cannot."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("torch", "peft", "datasets", "numpy", "matplotlib", "supervision", "transformers", "gradio", "jupyterlab")
_OPTIONAL = {"transformers": "test", "gradio": "apps", "jupyterlab": "notebooks"}
_RELEASED_GB = 3.5  # the released weights on disk


@dataclass(frozen=True)
class Finding:
    """One check: `verdict` is "good", "note" or "bad"; `advice` says what to do, empty when nothing is needed."""

    name: str
    verdict: str
    detail: str
    advice: str = ""

    def __str__(self) -> str:
        mark = {"good": "ok  ", "note": "note", "bad": "BAD "}[self.verdict]
        return f"{mark} {self.name:<12} {self.detail}" + (f"\n     {self.advice}" if self.advice else "")


def examine(folder: str | Path = ".", model: str = "tiny") -> list[Finding]:
    """All checks: Python, packages, device, number formats, memory, disk, weights.

    Args:
        folder: where results are going to be written.
        model: "tiny", a file, a folder or a hub name.
    """
    return [_python(), *_packages(), _device(), *_precision(), _memory(), _disk(Path(folder)), _weights(model)]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("Python", "good", found)
    return Finding("Python", "bad", found, "Python 3.11 or 3.12 is needed")


def _packages() -> list[Finding]:
    findings = []
    for name in _PACKAGES:
        try:
            findings.append(Finding(name, "good", version(name)))
        except PackageNotFoundError:
            extra = _OPTIONAL.get(name)
            verdict, where = ("note", f"'.[{extra}]'") if extra else ("bad", ".")
            findings.append(Finding(name, verdict, "not installed", f"pip install -e {where}"))
    return findings


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Finding("device", "good", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
    if torch.backends.mps.is_available():
        return Finding("device", "note", "Apple GPU", "give --device mps; nobody has measured it yet")
    return Finding(
        "device",
        "note",
        f"CPU only, {os.cpu_count()} cores",
        "enough for the tiny model; the released one takes minutes per picture",
    )


def _precision() -> list[Finding]:
    """Which number format is quick on a processor that has to do without a GPU."""
    import torch

    from sam3.speed import precision_times

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return []
    try:
        times = precision_times()
    except RuntimeError as error:  # a PyTorch that was built without int8, for one
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "use --precision fp32, which runs everywhere; the wheels of pytorch.org have the other formats"
        return [Finding("precision", "note", f"could not be measured ({reason})", advice)]
    shares = {name: seconds / times["fp32"] for name, seconds in times.items() if name != "fp32"}
    detail = ", ".join(f"{name} {share:.2f}" for name, share in shares.items()) + " of the time of fp32, one layer"
    quick = [f"--precision {name}" for name, share in shares.items() if share < 0.8]
    advice = f"the released size is quicker here with {' or '.join(quick)}" if quick else ""
    return [Finding("precision", "good", detail, advice)]


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    detail = f"{free:.1f} GB free"
    if free < 2:
        return Finding("memory", "bad", detail, "2 GB are needed for the tiny model; close other programs")
    if free < 8:
        return Finding("memory", "note", detail, "enough for the tiny model; the released one needs 8 GB")
    return Finding("memory", "good", detail)


def _disk(folder: Path) -> Finding:
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free / 1e9
    if not os.access(place, os.W_OK):
        return Finding("disk", "bad", f"{place} cannot be written", "choose another folder with --out")
    if free < 0.5:
        return Finding("disk", "bad", f"{free:.1f} GB free at {place}", "make room: a run writes up to 0.1 GB")
    return Finding("disk", "good", f"{free:.0f} GB free at {place}")


def _weights(model: str) -> Finding:
    from sam3.checkpoint import load_sam3

    if model == "tiny" or Path(model).exists():
        try:
            loaded = load_sam3(model)
        except ValueError as error:
            return Finding("weights", "bad", model, str(error))
        size = sum(p.numel() for p in loaded.parameters()) / 1e6
        return Finding("weights", "good", f"{model}: {size:.1f} million parameters")
    from huggingface_hub import get_token

    if get_token() is None:
        return Finding(
            "weights",
            "bad",
            f"{model} is no file here, and you are not signed in to the hub",
            f"accept the licence on the model's page, then `hf auth login`; {_RELEASED_GB} GB will be downloaded",
        )
    return Finding("weights", "note", f"{model} will be looked for on the hub", "the first use downloads it")
