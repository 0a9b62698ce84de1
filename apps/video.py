"""The tab *Video*: a short clip and phrases, every object followed and played, before and after with an adapter."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gradio as gr

from apps.desk import LIGHT_QUEUE, MODEL_QUEUE, Desk, bring_into_view
from apps.lent_gpu import CALL_SECONDS, IS_LENT, on_gpu
from apps.limits import checked_clip
from apps.models import Loan
from apps.player import MaskletPlayer
from apps.refusals import spoken
from sam3 import VideoPredictor
from sam3.files import write_text
from sam3.video.source import open_video
from workbench.video_clips import rendered_clips
from workbench.video_overlay import write_mp4, write_overlay
from workbench.video_sides import Side, player_data, with_same_numbers

_PROGRESS = gr.Progress()  # Gradio knows by its type that the handler wants to tell how far it is
_EMPTY = (
    "Choose a clip and write what to follow, then press **Follow**. A rendered example shows what the tiny model "
    "can do. With an adapted model above, before and after are played over the same clip."
)


def build(desk: Desk) -> None:
    """Fills the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            clip = gr.File(label="Clip (mp4, webm, mov, gif)", type="filepath", height=120)
            phrases = gr.Textbox(
                label="Follow", placeholder="red circle, star", info="Short noun phrases, with commas."
            )
            frames = gr.Slider(4, desk.limits.frames, min(40, desk.limits.frames), step=1, label="Frames at most")
            both = gr.Checkbox(True, label="Before and after", info="When the model above is one that you adapted.")
            with gr.Row():
                follow = gr.Button("Follow", variant="primary")
                example = gr.Button("Try a rendered clip")
            status = gr.Markdown(_EMPTY, elem_classes="sw-status")
        with gr.Column(scale=3, min_width=320):
            player = MaskletPlayer()

    @on_gpu
    @spoken
    def followed(
        user: str,
        model: str,
        path: str | None,
        text: str,
        most: float,
        is_both: bool,
        progress: gr.Progress = _PROGRESS,
    ) -> Any:
        """What moves in a clip: data for the player, and who answered."""
        workspace = desk.of(user)
        if path is None:
            raise ValueError("there is no clip yet: choose one, or press `Try a rendered clip`.")
        asked = desk.phrases(text)
        if not asked:
            raise ValueError("nothing is asked: write what to follow, for instance `red circle`.")
        place = workspace.folder / "clip"
        place.mkdir(exist_ok=True)
        start = time.perf_counter()
        plain = _shortened(checked_clip(path, desk.limits), place / "video.mp4", int(min(most, desk.limits.frames)))
        with desk.shelf.lent(model, workspace) as loan:
            loan.model.require_tracker()
            sides: list[Side] = []
            plays = _plays(loan, is_both)
            seconds = CALL_SECONDS / 2 if IS_LENT else desk.limits.clip_seconds
            limit = seconds / len(plays)
            for number, (title, predictor, context) in enumerate(plays):
                with context:
                    side, note = _play(
                        title, predictor, plain, asked, limit, lambda done, n=number: progress((n + done) / len(plays))
                    )
                sides.append(
                    side if not sides else with_same_numbers(sides[0], side, open_video(plain).num_frames or 0)
                )
        data = player_data(open_video(plain), sides, str(plain))
        write_text(place / "masklets.json", json.dumps({**data, "video": plain.name}))
        counts = "; ".join(f"{side.title}: {len(side.masklets)} objects" for side in sides)
        return data, f"**{loan.label}** followed them in {time.perf_counter() - start:.0f} s. {counts}. {note}".strip()

    @spoken
    def rendered(user: str) -> tuple[str, str]:
        """A short drawn clip with things in it that the tiny model knows."""
        path = desk.of(user).folder / "example.mp4"
        (drawn,) = rendered_clips(1, seed=31, num_frames=16)
        write_overlay(drawn.open(), [], path)
        return str(path), ", ".join(drawn.phrases[:2])

    done = follow.click(
        followed,
        [desk.user, desk.model, clip, phrases, frames, both],
        [player, status],
        api_name="video_follow",
        show_progress_on=status,
        **MODEL_QUEUE,
    )
    done.success(None, js=bring_into_view(".sw-player"))
    example.click(rendered, desk.user, [clip, phrases], api_name="video_example", **LIGHT_QUEUE)


def _plays(loan: Loan, is_both: bool) -> list[tuple[str, VideoPredictor, Any]]:
    """Title, predictor and context of each time the clip is played through."""
    after = (loan.label, loan.video_predictor(), nullcontext())
    if loan.adapter is None or not is_both:
        return [after]
    return [("before", VideoPredictor(loan.model), loan.adapter.disabled()), after]


def _play(
    title: str, predictor: VideoPredictor, clip: Path, phrases: Sequence[str], seconds: float, tell: Any
) -> tuple[Side, str]:
    """What was followed, and what to know of it."""
    end, note = time.monotonic() + seconds, ""
    with predictor.open(clip) as session:
        for phrase in phrases:
            session.add(phrase)
        total = session.source.num_frames or 1
        for done, _ in enumerate(session.propagate("forward"), start=1):
            tell(done / total)
            if time.monotonic() > end:
                note = f"The time was up after {done} of {total} frames."
                break
        return Side(title, tuple(session.masklets())), note


def _shortened(path: Path, target: Path, num_frames: int) -> Path:
    """The first frames as a plain mp4 that browsers play."""
    with open_video(path) as source:
        rate = source.frame_rate or 25.0
        write_mp4(
            ((number / rate, frame) for number, frame in zip(range(num_frames), source, strict=False)), target, rate
        )
    return target
