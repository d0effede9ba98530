"""Measuring a model: held-out text against a compressor, generated problems, planted facts in long documents."""
