"""Triton kernels of decoding: the step in which every sequence gets one token and nothing but memory matters.

Importing a module of this package needs Triton. Each function says what it computes in PyTorch's words; the tests run
every kernel through Triton's interpreter against that.
"""
