"""Tokenizers: byte-level BPE, trained or read from Hunyuan-Large's files, and the chat format."""

from kaiyuan.tokenizer.chat import ChatTokens, Message, render_chat, render_training
from kaiyuan.tokenizer.load import has_tokenizer, load_tokenizer
from kaiyuan.tokenizer.tiktoken_file import load_tiktoken
from kaiyuan.tokenizer.tokenizer import DocumentTokenizer, StreamDecoder, Tokenizer
from kaiyuan.tokenizer.train import train_tokenizer

__all__ = [
    "ChatTokens", "DocumentTokenizer", "Message", "StreamDecoder", "Tokenizer", "has_tokenizer", "load_tiktoken",
    "load_tokenizer", "render_chat", "render_training", "train_tokenizer",
]  # fmt: skip
