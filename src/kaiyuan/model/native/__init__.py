"""What a training step on a CPU does between its matrix products, in C++ that this machine's compiler builds.

``library`` builds it and says for which tensors it serves, ``operations`` are its functions on tensors, ``norms`` those
with gradients. Every one has its plain form in ``kaiyuan.model``, which computes where there is no compiler.
"""
