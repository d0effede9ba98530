"""Training in fp8: where it is refused, and that weights are coded anew when they have changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_process import CONFIG, RandomTokens

from kaiyuan.checkpoint.training import load_training_checkpoint, save_training_checkpoint
from kaiyuan.errors import KaiyuanError
from kaiyuan.model import linear
from kaiyuan.model.transformer import Transformer
from kaiyuan.training import fp8, master_adamw
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.trainer import Trainer, TrainerSettings

kernels = pytest.importorskip("kaiyuan.model.kernels.fp8", reason="Triton is not installed (it exists for Linux only)")


def test_fp8_is_refused_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainerSettings(1, 1e-3, fp8=True)
    model = Transformer(CONFIG, torch.bfloat16)
    with pytest.raises(KaiyuanError, match=r"^fp8 = true: it needs a data-centre GPU of Hopper.*leave it out"):
        Trainer("", model, RandomTokens(), language_model_loss, settings, tmp_path)
    with pytest.raises(KaiyuanError, match="in one process"):
        fp8.check_fp8(model, alone=False)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))  # too little shared memory
    assert "data-centre" in str(fp8._reason_against(model, alone=True))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(fp8, "on_gpu", lambda x: True)
    fp8.check_fp8(model, alone=True)
    with pytest.raises(KaiyuanError, match="bfloat16 as the compute dtype"):
        fp8.check_fp8(Transformer(CONFIG, torch.float32), alone=True)
    odd = CONFIG.replace(num_attention_heads=3, num_kv_heads=3, head_dim=8)
    with pytest.raises(KaiyuanError, match=r"num_attention_heads x head_dim is 24, which 16 does not divide"):
        fp8.check_fp8(Transformer(odd, torch.bfloat16), alone=True)
    odd = CONFIG.replace(head_dim=24)
    with pytest.raises(KaiyuanError, match=r"num_kv_heads x head_dim is 24, which 16 does not divide"):
        fp8.check_fp8(Transformer(odd, torch.bfloat16), alone=True)
    odd = CONFIG.replace(intermediate_size=CONFIG.intermediate_size + 8)
    with pytest.raises(KaiyuanError, match=r"width is .*16 does not divide"):
        fp8.check_fp8(Transformer(odd, torch.bfloat16), alone=True)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("on the CPU by Triton's interpreter, which is off where there is a GPU")
    monkeypatch.setattr(kernels, "_PROGRAMS", 4)  # the interpreter runs one after the other
    monkeypatch.setattr(master_adamw, "on_gpu", lambda x: True)


def weight_and_optimizer() -> tuple[torch.nn.Parameter, master_adamw.MasterAdamW]:
    weight = torch.nn.Parameter(torch.randn(32, 16, generator=torch.Generator().manual_seed(0)))
    linear.keep_copies([weight], torch.float16)
    groups = [{"params": [weight], "names": ["weight"], "lr": 0.1, "weight_decay": 0.0}]
    return weight, master_adamw.MasterAdamW(groups, (0.9, 0.95), 1e-8)


def update(weight: torch.nn.Parameter, optimizer: master_adamw.MasterAdamW, seed: int) -> None:
    linear.holder(weight).grad = torch.randn(32, 16, generator=torch.Generator().manual_seed(seed)).half()
    optimizer.step()


@pytest.mark.usefixtures("interpreted")
def test_codes_are_those_of_the_weight_as_it_is() -> None:
    """After an update by a kernel, which PyTorch does not notice and which leaves the copy behind, and after one that
    PyTorch makes.
    """
    weight, optimizer = weight_and_optimizer()
    codes = linear.codes(weight, torch.float16)
    copy = linear.leaf(weight).detach().clone()
    update(weight, optimizer, 1)
    assert linear.codes(weight, torch.float16) is codes
    expected = kernels.codes_of(weight.half(), largest_E=copy.float().abs().max()[None])
    assert torch.equal(codes.codes.float(), expected.codes.float())
    assert torch.equal(linear.holder(weight), copy)
    assert torch.equal(linear.leaf(weight), weight.half())
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(linear.codes(weight, torch.float16).codes.float(), kernels.codes_of(weight.half()).codes.float())


@pytest.mark.usefixtures("interpreted")
def test_a_run_that_goes_on_codes_as_the_one_that_did_not_stop(tmp_path: Path) -> None:
    """Scales come from the weights before an update: a checkpoint must say what they were."""
    weight, optimizer = weight_and_optimizer()
    linear.codes(weight, torch.float16)
    update(weight, optimizer, 1)
    update(weight, optimizer, 2)
    model = torch.nn.Module()
    model.weight = weight
    folder = save_training_checkpoint(tmp_path, 2, model, optimizer, {})
    again, other = weight_and_optimizer()
    model.weight = again
    load_training_checkpoint(folder, model, other)
    other.resume_codes()
    for seed in (3, 4):
        codes, resumed = linear.codes(weight, torch.float16), linear.codes(again, torch.float16)
        for one, two in zip(codes, resumed, strict=True):
            assert torch.equal(one.float(), two.float())
        update(weight, optimizer, seed)
        update(again, other, seed)
        assert torch.equal(weight, again)


@pytest.mark.usefixtures("interpreted")
def test_what_a_run_in_fp8_kept_is_forgotten_by_one_that_is_not(tmp_path: Path) -> None:
    """Its weights move on, and scales from before would cut off what has grown when fp8 is wanted again."""
    weight, optimizer = weight_and_optimizer()
    linear.codes(weight, torch.float16)
    update(weight, optimizer, 1)
    model = torch.nn.Module()
    model.weight = weight
    folder = save_training_checkpoint(tmp_path, 1, model, optimizer, {})
    model.weight, other = weight_and_optimizer()
    load_training_checkpoint(folder, model, other)
    assert {"codes_largest", "codes_following"} < other.state[model.weight].keys()
    update(model.weight, other, 2)
    assert set(other.state[model.weight]) == {"step", "exp_avg", "exp_avg_sq"}


def test_the_trainer_hands_on_what_a_checkpoint_says_of_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser takes the scales when the trainer has filled it from a checkpoint, not before."""
    seen: list[int] = []
    monkeypatch.setattr(master_adamw.MasterAdamW, "resume_codes", lambda self: seen.append(len(self.state)))
    model = Transformer(CONFIG, torch.bfloat16)
    model.init_weights()
    Trainer(
        "", model, RandomTokens(), language_model_loss, TrainerSettings(3, 1e-3, checkpoint_every=2), tmp_path
    ).fit()
    assert seen == []
    trainer = Trainer("", model, RandomTokens(), language_model_loss, TrainerSettings(3, 1e-3), tmp_path)
    assert isinstance(trainer.optimizer, master_adamw.MasterAdamW), "needs a C++ compiler"
    assert seen == [len(list(model.parameters()))]
