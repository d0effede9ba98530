"""Where tests find each other's helpers, and how many threads they use."""

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
