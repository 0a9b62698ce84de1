"""How the embedded default was made: a small SAM 3 trained from nothing on rendered scenes (`workbench pretrain`)."""

from workbench.pretrain.card import write_card
from workbench.pretrain.measure import held_out_table, pretrain
from workbench.pretrain.run import PretrainConfig

__all__ = ["PretrainConfig", "held_out_table", "pretrain", "write_card"]
