"""Thresholds of the concept video rules, with the values of the released model.

`reference_quirks` brings back where the rules for masklets depart from the released code. Where a session departs from
it in other ways, whatever that says, the reason is its design:

- Pixels of a video file lie in 0..1 before they are normalised, like those of a picture; there they lie in 0..255.
- Several phrases, and several exemplar boxes, may be searched in one session; masklets of different phrases do not
  compete. There, a prompt forgets the one before, and a second box is refused.
- The frame that a prompt lies on is done once; there, a pass does it again with what was just found.
- A phrase is asked from its own frame on, and of the frames before it only when the video is played backward to them.
- Whether a masklet is covered by others is judged on the masks' own grid, 288 x 288; there on enlarged masks,
  and the mask of a new masklet goes by way of the size of the video.
- A click on a masklet comes with its earlier mask as it is shown, binary; there, with its logits. From then on that
  masklet alone has a memory of its own: others that were born with it forget nothing. All clicks count, not 16 of them.
- A pass may be stopped at any frame and goes on there; several forward and backward passes do no frame twice.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoConfig:
    """What makes a masklet start, stay, hide, be re-prompted and end. Paper: appendix C.3; values of the release.

    Attributes:
        min_detection_score: detections need more than this to be looked at.
        nms_iou: of two detections with a mask IoU above this, the weaker one is dropped.
        match_iou: a detection and a masklet with at least this mask IoU belong together.
        agree_iou: a masklet is seen on a frame when a detection has at least this mask IoU with it.
        min_new_score: a detection without masklet needs at least this to start one, unless nothing is tracked yet.
        max_masklets: when more would be tracked, the weakest new detections are dropped.
        hotstart_frames: how long a new masklet is on trial, and how long results are held back for it; 0: no trial.
        max_unseen: unseen on this many frames while on trial, a masklet is removed.
        max_duplicate: sharing its detection with an older masklet on this many frames while on trial, it is removed.
        keep_alive: frames a masklet may be unseen before it counts as lost, more when it is seen in between.
        suppresses_lost: leave lost masklets out of the results while they are lost. Off in the release.
        occlusion_iou: of two masklets with at least this mask IoU, one is suppressed: the one occluded more recently.
        min_front_share: what a masklet must have in front of the others to be remembered as it is.
        max_speck_share: holes and specks up to this share of the grid are mended; 16 pixels on 288 x 288.
        recondition_every: every so many frames, strong detections are given to the tracker as prompts; below 1: never.
        recondition_score: what both the detection and the masklet's own score need for that.
        recondition_iou: what mask IoU they need.
        reference_quirks: do as the released code does where it departs from its own description: (1) a frame on which
            the detector did not look counts against all masklets; (2) a masklet that passed its trial may still be
            removed when the video is played backwards; (3) backwards, a masklet that was never occluded is suppressed
            behind one that was, and one that is just being removed suppresses the other; (4) `recondition_score` is
            compared with the masklet's logit instead of its score; (5) a re-conditioned masklet is remembered by its
            own mask instead of the one it was given, and that frame counts for all masklets born with it. For
            comparisons only.

    Raises:
        ValueError: more unseen or duplicate frames are asked for than the trial has.

    Example:
        >>> VideoConfig(hotstart_frames=0).max_speck_area((288, 288))
        16
    """

    min_detection_score: float = 0.5
    nms_iou: float = 0.1
    match_iou: float = 0.1
    agree_iou: float = 0.5
    min_new_score: float = 0.7
    max_masklets: int = 10_000
    hotstart_frames: int = 15
    max_unseen: int = 8
    max_duplicate: int = 8
    keep_alive: int = 30
    suppresses_lost: bool = False
    occlusion_iou: float = 0.7
    min_front_share: float = 0.3
    max_speck_share: float = 16 / 288**2
    recondition_every: int = 16
    recondition_score: float = 0.8
    recondition_iou: float = 0.8
    reference_quirks: bool = False

    def __post_init__(self) -> None:
        if 0 < self.hotstart_frames < max(self.max_unseen, self.max_duplicate):
            raise ValueError(
                f"max_unseen {self.max_unseen} and max_duplicate {self.max_duplicate} were given for a trial of "
                f"{self.hotstart_frames} frames; expected at most {self.hotstart_frames}, or no trial masklet can fail"
            )

    def max_speck_area(self, grid: tuple[int, int]) -> int:
        """Pixels of the largest hole or speck to mend on masks of `grid` rows and columns."""
        return round(self.max_speck_share * grid[0] * grid[1])
