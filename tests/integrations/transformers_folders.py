"""Folders for the tests of transformers' Auto classes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tiny_models import TINY, build

from kaiyuan import ModelConfig, save_model
from kaiyuan.checkpoint.hf_config import read_raw

LARGE = TINY
OWN = TINY.replace(top_k=(1, 2, 1, 2))
FORMS: dict[str, ModelConfig] = {
    "hunyuan": LARGE,
    "hunyuan, untied, groups of three": LARGE.replace(tie_word_embeddings=False, cla_share_factor=3, rope_alpha=None),
    "kaiyuan": OWN,
}


def write(config: ModelConfig, folder: Path) -> Path:
    save_model(build(config), folder)
    return folder


def like_the_release(folder: Path) -> Path:
    """A folder with what Hunyuan-Large's have besides weights: remote code, placeholder ids, a rank file."""
    write(LARGE.replace(vocab_size=500), folder)
    raw = read_raw(folder) | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    code = {"AutoConfig": "configuration_hunyuan.HunYuanConfig", "AutoModelForCausalLM": "modeling.HunYuanForCausalLM"}
    (folder / "config.json").write_text(json.dumps(raw | {"auto_map": code}))
    tokens = [bytes([byte]) for byte in range(256)] + [b"he", b"ll", b"hell"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (folder / "hy.tiktoken").write_text("\n".join(lines))
    settings = {"tokenizer_class": "HYTokenizer", "model_max_length": 1048576}
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_hy.HYTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in ("configuration_hunyuan.py", "modeling.py", "tokenization_hy.py"):
        (folder / name).write_text("raise RuntimeError('remote code was run')\n")
    return folder
