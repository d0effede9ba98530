"""Training on many devices, directly on ``torch.distributed``: a file a kind of parallelism, none in the model."""
