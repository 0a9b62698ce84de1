"""How the embedded default was made: a small SAM 3 trained from nothing on rendered scenes (`workbench pretrain`), then
taught to follow objects on rendered clips (`workbench pretrain-tracker`)."""

from workbench.pretrain.card import write_card
from workbench.pretrain.measure import held_out_table, pretrain
from workbench.pretrain.measure_tracking import pretrain_tracker, tracking_table
from workbench.pretrain.run import PretrainConfig
from workbench.pretrain.tracking_card import write_tracker_card
from workbench.pretrain.tracking_recipe import Stage, TrackingConfig

__all__ = [
    "PretrainConfig",
    "Stage",
    "TrackingConfig",
    "held_out_table",
    "pretrain",
    "pretrain_tracker",
    "tracking_table",
    "write_card",
    "write_tracker_card",
]
