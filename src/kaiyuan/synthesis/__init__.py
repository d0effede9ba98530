"""Synthetic data: generated problems with verified answers, and the documents and instructions made of them."""
