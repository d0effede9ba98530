"""The tokenizer of Hunyuan-Large's folders (``hy.tiktoken``) in transformers, without its remote code."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from kaiyuan.errors import CheckpointError
from kaiyuan.tokenizer import load_tokenizer
from kaiyuan.tokenizer.tokenizer import CONFIG_FILE, read_settings

_KEPT = ("model_max_length", "padding_side", "truncation_side")


class HYTokenizer(PreTrainedTokenizerFast):
    """The class that the release's ``tokenizer_config.json`` names.

    Other than the release's, it never adds tokens to a text (theirs appends ``<|endoftext|>`` to prompts).
    """

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> PreTrainedTokenizerFast:
        """The tokenizer in a folder, as a ``PreTrainedTokenizerFast``: what it saves loads without this package."""
        folder = Path(pretrained_model_name_or_path, kwargs.pop("subfolder", None) or "")
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder; download the model first and give its folder")
        settings = read_settings(folder / CONFIG_FILE)
        kept = {key: settings[key] for key in _KEPT if key in settings}
        options = {"model_input_names": ["input_ids", "attention_mask"], **kept, **kwargs}
        with tempfile.TemporaryDirectory() as converted:
            load_tokenizer(folder).save(converted)
            return PreTrainedTokenizerFast.from_pretrained(converted, *args, **options)
