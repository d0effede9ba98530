"""Alignment on the one trainer: supervised fine-tuning, and DPO on offline and online preference pairs."""
