"""A recipe so small that all its stages take seconds, on text made here."""

from __future__ import annotations

import random
from pathlib import Path

RECIPE = """
[run]
name = "tiny"
seed = 3
device = "cpu"
threads = 1

[model]
preset = "1m"
[model.overrides]
hidden_size = 32
num_layers = 2
num_attention_heads = 2
num_kv_heads = 1
head_dim = 16
intermediate_size = 48
num_experts = 4

[corpus]
demo = false
files = ["TEXT"]
held_out_share = 0.2
statements = 40
recalls = 12
recall_chars = [200, 600]
workers = 1

[tokenizer]
vocab_size = 700

[synthesis]
samples = 150
recall_samples = 10
recall_chars = [60, 150]
preferences = 40
held_out = 30
held_out_share = 0.2

[pretrain]
tokens = 12000
sequence_length = 64
batch_size = 4
lr = 0.003
checkpoint_every = 10
[pretrain.mixture]
web = 0.6
"[ak]*" = 0.3
recall = 0.1

[extend]
batch_size = 4
lr = 0.001
checkpoint_every = 3
stages = [{ length = 128, tokens = 3000, rope_theta = 20000.0 }]
[extend.mixture]
web = 0.8
recall = 0.2

[sft]
epochs = 1
sequence_length = 320
batch_size = 4
lr = 0.002
checkpoint_every = 3

[dpo]
steps = 4
batch_size = 4
lr = 0.0002
samples = 2
max_tokens = 6
checkpoint_every = 2

[evaluation]
context = 64
max_tokens = 6
needle_lengths = [64, 128]
needle_depths = [0.0, 1.0]
needle_samples = 1
prompts = ["What is 1 + 2?"]
"""

_ENGLISH = """
the old river runs down to a town where people of every kind meet and talk about rain and bread and news while
children play near stone walls under tall trees in warm light before evening comes with quiet wind
"""
_CHINESE = """
山水之间有一个小村子，人们每天早上起来看着太阳从东边升起，
然后去田里工作，晚上回家吃饭聊天，说今天的事情
"""
_WORDS = {"en": _ENGLISH.split(), "zh": [letter for letter in _CHINESE if letter.isalpha()]}


def write_text(path: Path, documents: int = 60, seed: int = 0) -> Path:
    """A .jsonl file of random sentences in English and Chinese."""
    import json

    rng = random.Random(seed)
    rows = []
    for number in range(documents):
        language = ("en", "zh")[number % 2]
        paragraphs = ["".join(_sentence(rng, language) for _ in range(4)) for _ in range(5)]
        rows.append(
            json.dumps({"text": "\n\n".join(paragraphs), "language": language, "label": "web"}, ensure_ascii=False)
        )
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def _sentence(rng: random.Random, language: str) -> str:
    words = rng.choices(_WORDS[language], k=rng.randrange(7, 14))
    if language == "zh":
        return "".join(words) + "。"
    return " ".join(words).capitalize() + ". "


def write_recipe(folder: Path) -> Path:
    """The recipe with its text beside it."""
    text = write_text(folder / "text.jsonl")
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.replace("TEXT", str(text)), encoding="utf-8")
    return recipe
