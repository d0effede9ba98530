"""Model folders: reading and writing Hunyuan-Large, HunYuan-V1 (MoE) and our own; and checkpoints of training."""

from kaiyuan.checkpoint.convert import convert
from kaiyuan.checkpoint.hf_config import read_config, stored_scheme, write_config
from kaiyuan.checkpoint.inspect import describe, describe_report, inspect_folder
from kaiyuan.checkpoint.reader import load_model
from kaiyuan.checkpoint.writer import save_model, save_state

__all__ = [
    "convert", "describe", "describe_report", "inspect_folder", "load_model", "read_config", "save_model",
    "save_state", "stored_scheme", "write_config",
]  # fmt: skip
