"""transformers' Auto classes on our folders compute what ``kaiyuan.load_model`` and ``kaiyuan.Engine`` compute."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import transformers_folders as folders
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel

import kaiyuan
import kaiyuan.integrations.transformers as integration
from kaiyuan.checkpoint import convert, read_config
from kaiyuan.errors import CheckpointError, ConfigError, KaiyuanError
from kaiyuan.tokenizer.train import train_tokenizer

PROMPTS = [[5, 9, 2, 17, 30, 8, 8, 41], [3, 44, 12], [7]]


@pytest.fixture(params=folders.FORMS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return folders.write(folders.FORMS[request.param], tmp_path / "model")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return folders.write(folders.LARGE, tmp_path / "large")


def golden(name: str) -> Path:
    given = os.environ.get("KAIYUAN_SHARED")
    shared = Path(given) if given else Path(__file__).parents[3] / "shared"
    if not (shared / "golden" / name).is_dir():
        pytest.skip(f"no golden files at {shared / 'golden' / name} (set KAIYUAN_SHARED to where they are)")
    return shared / "golden" / name


def some_ids(rows: int = 2, length: int = 17) -> torch.Tensor:
    return torch.randint(0, 48, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: torch.Tensor, **options: object) -> torch.Tensor:
    return model(ids, **options).logits


def left_padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def greedy(model: PreTrainedModel, prompt: list[int], count: int = 12, **options: object) -> list[int]:
    found = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=count, **options)
    return found[0, len(prompt) :].tolist()


def test_logits_equal_those_of_load_model(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__module__.startswith("kaiyuan.")
    assert not model.training
    with torch.no_grad():
        expected = kaiyuan.load_model(folder)(some_ids())
    torch.testing.assert_close(logits_of(model, some_ids()), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits_of(model, some_ids(), logits_to_keep=2), expected[:, -2:], atol=1e-4, rtol=0)
    assert not torch.allclose(expected, expected.flip(0), atol=1e-2)


def test_golden_large() -> None:
    expected = load_file(golden("large-tiny") / "golden.safetensors")
    model = AutoModelForCausalLM.from_pretrained(golden("large-tiny"))
    output = model(expected["input_ids"], output_hidden_states=True)
    torch.testing.assert_close(output.logits, expected["logits"], atol=1e-4, rtol=0)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    for number, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state, expected[f"hidden.{number}"], atol=1e-4, rtol=0)


def test_golden_v1_by_transformers_own_class_and_by_ours() -> None:
    expected = load_file(golden("v1-tiny") / "golden.safetensors")
    theirs = AutoModelForCausalLM.from_pretrained(golden("v1-tiny"))
    assert type(theirs).__module__.startswith("transformers.")
    ours = integration.HunYuanForCausalLM.from_pretrained(golden("v1-tiny"))
    for model in (theirs, ours):
        torch.testing.assert_close(logits_of(model, expected["input_ids"]), expected["logits"], atol=1e-4, rtol=0)


def test_greedy_equals_the_engine(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = kaiyuan.Engine(folder).generate(PROMPTS, kaiyuan.SamplingParams(temperature=0, max_tokens=12))
    expected = [completion.token_ids for completion in found]
    assert [greedy(model, prompt) for prompt in PROMPTS] == expected
    assert [greedy(model, prompt, use_cache=False) for prompt in PROMPTS] == expected
    assert [greedy(model, prompt, cache_implementation="static") for prompt in PROMPTS] == expected
    assert [greedy(model, prompt, prompt_lookup_num_tokens=3) for prompt in PROMPTS] == expected
    batch = model.generate(**left_padded(PROMPTS), do_sample=False, max_new_tokens=12, pad_token_id=0)
    assert batch[:, -12:].tolist() == expected


def test_left_padding_changes_no_logits(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    together = model(**left_padded(PROMPTS)).logits.detach()
    for row, prompt in enumerate(PROMPTS):
        alone = logits_of(model, torch.tensor([prompt]))
        torch.testing.assert_close(together[row, -len(prompt) :], alone[0], atol=1e-4, rtol=0)


def test_right_padding_and_gradients(large: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(large).train()
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    labels = some_ids(2, 9).masked_fill(mask == 0, -100)
    loss = model(some_ids(2, 9), attention_mask=mask, labels=labels).loss
    loss.backward()
    with torch.no_grad():
        plain = kaiyuan.load_model(large)
        scores = [plain(some_ids(2, 9)[:1])[0, :-1], plain(some_ids(2, 9)[1:, :6])[0, :-1]]
    targets = torch.cat([some_ids(2, 9)[0, 1:], some_ids(2, 9)[1, 1:6]])
    torch.testing.assert_close(loss.detach(), torch.nn.functional.cross_entropy(torch.cat(scores), targets))
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    left = model(**left_padded(PROMPTS), labels=left_padded(PROMPTS)["input_ids"]).loss
    left.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_loss_is_scaled_by_the_items_of_a_larger_batch(large: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(large)
    ids = some_ids(2, 9)
    mean = model(ids, labels=ids).loss
    torch.testing.assert_close(model(ids, labels=ids, num_items_in_batch=64).loss, mean * 16 / 64)


def test_positions_that_start_anew_separate_documents(large: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(large)
    packed = torch.tensor([PROMPTS[0] + PROMPTS[1]])
    positions = torch.tensor([[*range(8), *range(3)]])
    found = logits_of(model, packed, position_ids=positions)
    torch.testing.assert_close(found[:, 8:], logits_of(model, torch.tensor([PROMPTS[1]])), atol=1e-4, rtol=0)


def test_cache_in_pieces_equals_one_pass(large: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(large)
    ids, cache = some_ids(), DynamicCache()
    pieces = [logits_of(model, piece, past_key_values=cache) for piece in ids.split([5, 1, 8, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), logits_of(model, ids), atol=1e-4, rtol=0)


def cache_bytes(folder: Path) -> int:
    model = AutoModelForCausalLM.from_pretrained(folder)
    output = model.generate(some_ids(), max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    entries = [entry for layer in output.past_key_values.layers for entry in (layer.keys, layer.values)]
    return sum(entry.untyped_storage().nbytes() for entry in entries if entry is not None)


def test_cache_takes_half(large: Path, tmp_path: Path) -> None:
    unshared = folders.write(folders.LARGE.replace(cla_share_factor=1), tmp_path / "unshared")
    assert cache_bytes(large) * 2 == cache_bytes(unshared)
    assert AutoConfig.from_pretrained(large).kv_sharing_modes == [None, "reuse", None, "reuse"]
    assert cache_bytes(large) == 2 * (17 + 4 - 1) * folders.LARGE.kv_bytes_per_token(4)


def test_beam_search_finds_what_a_full_search_finds(large: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(large)
    found = model.generate(torch.tensor([PROMPTS[0]]), num_beams=48, do_sample=False, max_new_tokens=2)
    first = logits_of(model, torch.tensor([PROMPTS[0]]))[0, -1].log_softmax(-1)
    all_next = torch.tensor([[*PROMPTS[0], token] for token in range(48)])
    scores = first[:, None] + logits_of(model, all_next)[:, -1].log_softmax(-1)
    assert found[0, -2:].tolist() == list(divmod(int(scores.argmax()), 48))


def test_beams_with_padding_equal_beams_alone(large: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(large)
    options = {"num_beams": 3, "do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
    together = model.generate(**left_padded(PROMPTS), **options)[:, -8:]
    alone = [model.generate(torch.tensor([prompt]), **options)[0, -8:] for prompt in PROMPTS]
    assert together.tolist() == torch.stack(alone).tolist()


def test_sampling_follows_the_seed_and_the_streamer_sees_every_token(large: Path) -> None:
    class Seen:
        ids: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.ids = self.ids + value.flatten().tolist()

        def end(self) -> None:
            self.ids = [*self.ids, -1]

    model, runs = AutoModelForCausalLM.from_pretrained(large), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        seen = Seen()
        found = model.generate(torch.tensor([[5, 6]]), do_sample=True, max_new_tokens=20, streamer=seen)
        assert seen.ids == [*found[0].tolist(), -1]
        runs.append(found[0].tolist())
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_dtype_is_that_of_all_but_the_router(folder: Path, name: str, dtype: object) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, **{name: dtype})
    for key, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "router" in key else torch.bfloat16), key
    assert model.dtype == model.config.dtype == torch.bfloat16
    with torch.no_grad():
        expected = kaiyuan.load_model(folder, torch.bfloat16)(some_ids())
    assert torch.equal(logits_of(model, some_ids()), expected)


def test_auto_dtype_is_that_of_the_folder(large: Path, tmp_path: Path) -> None:
    convert(large, tmp_path / "half", dtype=torch.bfloat16)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32).dtype == torch.float32


def test_autocast_leaves_the_router_in_float32(large: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(large)
    seen = {}
    moe = model.transformer.layers[1].moe
    moe.router.register_forward_hook(lambda *call: seen.update(router=call[2].dtype))
    moe.register_forward_hook(lambda *call: seen.update(moe=call[2][0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(some_ids())
    assert seen == {"router": torch.float32, "moe": torch.bfloat16}
    model(some_ids())
    assert seen["moe"] == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_pretrained_round_trip(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    assert len(list((tmp_path / "saved").glob("model-*.safetensors"))) > 1
    assert read_config(tmp_path / "saved") == read_config(folder)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.dtype == dtype
    with torch.no_grad():
        ours = kaiyuan.load_model(tmp_path / "saved", dtype)(some_ids())
    assert torch.equal(ours, logits_of(model, some_ids()))
    assert torch.equal(ours, logits_of(again, some_ids()))


def test_a_config_alone_round_trips_and_makes_a_new_model(folder: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    config.save_pretrained(tmp_path / "config")
    assert read_config(tmp_path / "config") == read_config(folder)
    assert type(config).from_dict(config.to_dict()).model_config() == read_config(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert model.transformer.layers[0].moe.router.weight.dtype == torch.float32
    assert float(model.transformer.embed.weight.detach().float().std()) == pytest.approx(0.02, rel=0.1)
    assert torch.equal(model.transformer.norm.weight, torch.ones(32, dtype=torch.bfloat16))


def test_experts_a_token_are_not_taken_for_a_sampling_setting(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders.write(folders.OWN, tmp_path / "own"))
    assert model.generation_config.top_k is None
    assert model.config.num_experts_per_tok == [1, 2, 1, 2]


def test_vocabulary_can_grow(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = logits_of(model, some_ids())
    model.resize_token_embeddings(56)
    after = logits_of(model, some_ids())
    assert after.shape[-1] == 56
    assert torch.equal(after[..., :48], before)
    model.save_pretrained(tmp_path / "grown")
    with torch.no_grad():
        assert torch.equal(kaiyuan.load_model(tmp_path / "grown")(some_ids()), after)


def test_a_saved_state_goes_into_another_model(folder: Path, tmp_path: Path) -> None:
    source = AutoModelForCausalLM.from_pretrained(folder)
    target = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    source.save_pretrained(tmp_path / "saved")
    state = load_file(tmp_path / "saved" / "model.safetensors")
    result = target.load_state_dict(state, strict=True)
    assert not result.missing_keys
    assert torch.equal(logits_of(target, some_ids()), logits_of(source, some_ids()))
    name = "model.layers.0.mlp.experts.1.up_proj.weight"
    with pytest.raises(CheckpointError, match=r"up_proj\.weight: missing"):
        target.load_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(CheckpointError, match=r"has shape \[1, 32\]"):
        target.load_state_dict(state | {name: state[name][:1]})
    target.load_state_dict(source.state_dict())


@pytest.mark.slow
def test_trainer_resumes_with_the_weights_it_saved(large: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": row.tolist(), "labels": row.tolist()} for row in some_ids(8, 6)]

    def train(steps: int, resume: bool) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(large)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "run"), max_steps=steps, save_steps=2, report_to=[], use_cpu=True,
            per_device_train_batch_size=2, learning_rate=0.01, lr_scheduler_type="constant", disable_tqdm=True,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows).train(resume_from_checkpoint=resume)
        return logits_of(model.eval(), some_ids())

    train(2, resume=False)
    resumed = train(4, resume=True)
    torch.testing.assert_close(resumed, train(4, resume=False))


def test_tokenizer_and_model_of_one_folder(folder: Path) -> None:
    config = read_config(folder).replace(vocab_size=280)
    folders.write(config, folder)
    tokenizer = train_tokenizer(["the cat and the hat " * 20], 275)
    tokenizer.save(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    text = "the cat, 你好"
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == tokenizer.end_ids
    batch = theirs(["the cat", "a hat and a cat"], return_tensors="pt", padding=True, padding_side="left")
    found = model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
    answers = kaiyuan.Engine(folder).generate(
        ["the cat", "a hat and a cat"], kaiyuan.SamplingParams(temperature=0, max_tokens=8)
    )
    for row, answer in zip(found.tolist(), answers, strict=True):
        assert row[: len(answer.token_ids)] == answer.token_ids


def test_a_folder_like_the_release_runs_no_remote_code(tmp_path: Path) -> None:
    folder = folders.like_the_release(tmp_path / "release")
    ours = kaiyuan.load_tokenizer(folder)
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(config, integration.HunYuanConfig)
    assert model.generation_config.eos_token_id is None, "the release's config.json names ordinary tokens"
    assert tokenizer("hello hell")["input_ids"] == ours.encode("hello hell")
    assert (tokenizer.eos_token_id, tokenizer.model_max_length) == (ours.eos_id, 1048576)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "he"}])["input_ids"] == [
        ours.bos_id, 256, ours.special_id("<|extra_0|>"),
    ]  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("hello")["input_ids"] == ours.encode("hello")


def test_quantised_and_bin_folders(large: Path, tmp_path: Path) -> None:
    convert(large, tmp_path / "int8", quantize="int8")
    with torch.no_grad():
        expected = kaiyuan.load_model(tmp_path / "int8")(some_ids())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "int8", dtype=torch.float32)
    assert torch.equal(logits_of(model, some_ids()), expected)
    torch.save(load_file(large / "model.safetensors"), large / "pytorch_model.bin")
    before = logits_of(AutoModelForCausalLM.from_pretrained(large), some_ids())
    (large / "model.safetensors").unlink()
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(large), some_ids()), before)


def test_what_cannot_be_done_is_refused_in_one_line(large: Path) -> None:
    load = integration.HunYuanForCausalLM.from_pretrained
    with pytest.raises(CheckpointError, match="no such folder"):
        load(large / "nothing")
    with pytest.raises(CheckpointError, match="gguf_file: not supported"):
        load(large, gguf_file="x.gguf")
    with pytest.raises(CheckpointError, match="device_map: 'balanced' is not one device"):
        load(large, device_map="balanced")
    with pytest.raises(CheckpointError, match="dtype: 'int8'"):
        load(large, dtype="int8")
    with pytest.raises(ConfigError, match="differs from that of"):
        AutoModelForCausalLM.from_pretrained(large, rms_norm_eps=1e-6)
    model = load(large, device_map="auto", trust_remote_code=True)
    for options in ({"output_attentions": True}, {"inputs_embeds": torch.zeros(1, 2, 32)}):
        with pytest.raises(ValueError, match="not supported"):
            model(some_ids(), **options)
    with pytest.raises(ValueError, match=r"needed is \(batch, 17\)"):
        model(some_ids(), attention_mask=torch.ones(2, 16))
    with pytest.raises(CheckpointError, match="max_shard_size"):
        model.save_pretrained(large, max_shard_size="some")


def test_a_damaged_config_is_named(large: Path) -> None:
    raw = json.loads((large / "config.json").read_text())
    (large / "config.json").write_text(json.dumps(raw | {"mamba": True}))
    with pytest.raises(ConfigError, match="mamba: True is not supported"):
        AutoModelForCausalLM.from_pretrained(large)


def test_without_transformers_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("kaiyuan.integrations.transformers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(KaiyuanError, match=r"kaiyuan\[transformers\]"):
        __import__("kaiyuan.integrations.transformers")
