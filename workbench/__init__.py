"""Adapts SAM 3 to your own concepts from a handful of labelled pictures, and measures what that did.

    from workbench import ExampleSet, FinetuneConfig, Plan, add_adapter, compare, evaluate, finetune, run_recipe

    run_recipe("recipes/coins.yaml", "runs/coins")     # the whole job, as `workbench adapt` does it

One step at a time:

    labelled pictures       examples.py, label_checks.py, set_summary.py, formats/ (labels in and out), validation.py,
                            splits.py, augment.py
    adapting                adapters.py, finetune.py, negatives.py, guard.py
    measuring, comparing    evaluate.py, record_metrics.py, pair_metrics.py, metrics.py, ranking.py, compare.py,
                            bootstrap.py, calibrate.py, reliability.py, cross_validation.py, sweep.py
    marking by hand         widgets.py (notebooks; apps/ has the pages), annotation.py, annotation_labels.py,
                            annotation_session.py, annotation_answers.py, interface_files.py and ui/, playback.py
    showing                 show.py, show_answers.py, plots.py, paint.py, report.py, report_tables.py,
                            report_panels.py, predict.py, inside.py (attention)
    videos                  video_clips.py, video_files.py (in and out), video_evaluate.py, video_metrics.py,
                            video_association.py, video_baseline.py (linking in place of a tracker), video_compare.py,
                            video_overlay.py, video_sides.py, video_report.py, video_job.py, video_predictor.py
    the job as a file       recipe.py (settings), adapt.py (the job), __main__.py (the command line)
    import, export          transfer.py, data_commands.py; domains/ also reads medical, street and text data sets
    rendered pictures       domains/; the embedded default model is trained on them by pretrain/
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.adapt import run_recipe
    from workbench.adapters import Plan, add_adapter, load_adapter, merge
    from workbench.compare import compare
    from workbench.cross_validation import cross_validate
    from workbench.evaluate import evaluate
    from workbench.examples import Example, ExampleSet
    from workbench.finetune import FinetuneConfig, finetune
    from workbench.show import show_batch, show_results
    from workbench.sweep import sweep
    from workbench.widgets import Annotator, MaskletPlayer

__all__ = [
    "Annotator",
    "Example",
    "ExampleSet",
    "FinetuneConfig",
    "MaskletPlayer",
    "Plan",
    "add_adapter",
    "compare",
    "cross_validate",
    "evaluate",
    "finetune",
    "load_adapter",
    "merge",
    "run_recipe",
    "show_batch",
    "show_results",
    "sweep",
]

# Imported on first use: a command that only prints its help need not wait for torch.
_MODULES = {
    "Annotator": "workbench.widgets",
    "Example": "workbench.examples",
    "ExampleSet": "workbench.examples",
    "FinetuneConfig": "workbench.finetune",
    "MaskletPlayer": "workbench.widgets",
    "Plan": "workbench.adapters",
    "add_adapter": "workbench.adapters",
    "compare": "workbench.compare",
    "cross_validate": "workbench.cross_validation",
    "evaluate": "workbench.evaluate",
    "finetune": "workbench.finetune",
    "load_adapter": "workbench.adapters",
    "merge": "workbench.adapters",
    "run_recipe": "workbench.adapt",
    "show_batch": "workbench.show",
    "show_results": "workbench.show",
    "sweep": "workbench.sweep",
}


class _Package(ModuleType):
    """Keeps `compare`, `evaluate`, `finetune` and `sweep` functions, although modules have the same names."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing `workbench.evaluate` anywhere makes the import system bind that module to this name.
        if isinstance(value, ModuleType) and _MODULES.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
