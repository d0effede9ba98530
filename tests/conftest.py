"""Where tests find each other's helpers, how many threads they use, and what runs Triton's kernels."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
for folder in (HERE, *(path for path in HERE.iterdir() if path.is_dir() and path.name != "__pycache__")):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

if not torch.cuda.is_available():
    # Before anything imports Triton: what it has defined by then knows no interpreter.
    os.environ["TRITON_INTERPRET"] = "1"
