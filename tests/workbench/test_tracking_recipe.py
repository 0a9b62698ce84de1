"""The tracker's recipe: which stages can be, and what the model card says of them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from workbench.pretrain import Stage, TrackingConfig
from workbench.pretrain.tracking_card import _stage

STAGE = Stage(7, windows=4, frames=6, objects=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "at least one step, window, frame and object"),
        ({"memory_rate": 2.0}, "received memory_rate=2.0 of a stage; expected a share from 0 to 1"),
        ({"with_gaps": -0.1}, "received with_gaps=-0.1"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(STAGE, **wrong)


def test_a_recipe_goes_through_its_cycles_in_order() -> None:
    stages = [replace(STAGE, cycle=cycle) for cycle in (0, 1)]
    assert TrackingConfig(stages=tuple(stages)).steps == 2 * stages[0].steps
    for wrong in (stages[::-1], []):
        with pytest.raises(ValueError, match="expected at least one, and none that goes back"):
            TrackingConfig(stages=tuple(wrong))


def test_the_card_tells_what_each_stage_does_with_memory() -> None:
    def said(is_set_back: bool = False, **changes: Any) -> str:
        return _stage(asdict(replace(STAGE, **changes)), is_set_back=is_set_back)

    assert said() == "7 with 4 x 6" and said(with_gaps=1.0) == "7 with 4 x 6 at any distance"
    assert said(True) == "7 with 4 x 6 (comparison set back)"
    assert said(True, memory_rate=0.0) == "7 with 4 x 6 (comparison set back, memory's layers frozen)"
    assert said(memory_rate=0.1).endswith("(comparison kept, the rest of memory's layers at 0.1 of the rate)")
