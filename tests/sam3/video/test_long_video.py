"""A long video costs no more memory and no more time per frame than a short one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import numpy as np
import psutil
import pytest

from sam3.model import Sam3
from sam3.predictor import VideoPredictor
from sam3.prompts import ObjectPrompt
from sam3.video_config import VideoConfig

NUM_FRAMES, SIDE, NUM_OBJECTS = 400, 96, 5


def frames() -> Iterator[np.ndarray]:
    """Noise, each frame made when it is asked for."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(NUM_FRAMES))


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [True, False], ids=["objects shown by hand", "a phrase"])
def test_memory_and_time_stay_as_they_are(clickable: Sam3, by_hand: bool) -> None:
    process, memory, times = psutil.Process(), list[int](), list[float]()
    config = VideoConfig(0.0, 1.0, min_new_score=0.0, max_masklets=NUM_OBJECTS, hotstart_frames=0)  # all is an object
    session = VideoPredictor(clickable, config).open(frames())
    if by_hand:
        for number in range(NUM_OBJECTS):
            mask = np.zeros((SIDE, SIDE), dtype=bool)
            mask[16 * number : 16 * number + 12, 20:50] = True
            session.add(ObjectPrompt(mask=mask))
    else:
        session.add("a thing")
    assert session.newest_id == NUM_OBJECTS - 1
    start = time.process_time()
    for _ in session.propagate():
        memory.append(process.memory_info().rss)
        times.append(time.process_time() - start)
        start = time.process_time()
    assert len(memory) == NUM_FRAMES and session.newest_id == NUM_OBJECTS - 1
    assert max(memory) <= 1.10 * max(memory[:100])
    assert median(times[-100:]) <= 1.5 * median(times[50:150])
    bank_sizes = [len(group.bank.entries) for group in session._loop.following._groups]
    assert 4 < max(bank_sizes) <= 4 + 2 * 16
