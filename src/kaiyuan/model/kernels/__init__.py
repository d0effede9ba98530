"""Triton kernels of training: what is done to single elements and rows between the matrix products, each in one pass.

Importing a module of this package needs Triton. Each function names the PyTorch form it stands for; the tests run
every kernel through Triton's interpreter against that.
"""
