"""Inference on a CPU by one call a step: C++ that this machine's own compiler builds, the first time it is needed.

``library`` builds and loads it, ``panels`` lays weights out for it, ``runner`` gives it the work of a step. Where there
is no compiler, or the model is of a kind it does not know, PyTorch computes instead.
"""
