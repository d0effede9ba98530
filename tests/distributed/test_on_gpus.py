"""Layouts over NCCL, where there are GPUs for it."""

from __future__ import annotations

from collections.abc import Iterator

import parallel_runs
import pytest
import torch
from process_group import Group

from kaiyuan.training.parallel.layout import Layout

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

LAYOUTS = [Layout(data_shard=2), Layout(data_replicate=2), Layout(data_shard=2, expert=2), Layout(tensor=2),
           Layout(context=2), Layout(pipeline=2), Layout(pipeline=2, pipeline_chunks=2)]  # fmt: skip


@pytest.fixture(scope="module")
def gpus() -> Iterator[Group]:
    group = Group(2, gpus=True)
    yield group
    group.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_layout_trains_like_one_gpu(gpus: Group, layout: Layout, dtype: torch.dtype) -> None:
    changes = {"micro_batches": layout.pipeline}
    documents, layers = layout.context > 1, 4 * layout.pipeline_chunks
    inputs = (changes, documents, dtype, True, None, True, False, layers)
    found, alone = gpus.run(parallel_runs.train, layout, *inputs)[0], gpus.run(parallel_runs.train, None, *inputs)[0]
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    assert found.losses == pytest.approx(alone.losses, abs=tolerance)
    assert found.norms == pytest.approx(alone.norms, rel=1e-3 if dtype == torch.float32 else 0.05)
    if dtype == torch.float32:
        for name, value in alone.weights.items():
            torch.testing.assert_close(found.weights[name], value, rtol=1e-3, atol=1e-4, msg=name)
