"""A recipe: a whole run as one TOML file. One section a stage, every value checked before anything starts."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kaiyuan.corpus.pipeline import CorpusSettings
from kaiyuan.corpus.scores.config import ScorerConfig
from kaiyuan.corpus.sources.spec import Source, as_table
from kaiyuan.errors import ConfigError
from kaiyuan.model.config import ModelConfig
from kaiyuan.settings import Settings, checked, read_toml
from kaiyuan.synthesis.reasoning import ALL_KINDS

Share = float
OWN_SETS = ("problems", "prompts")
"""Evaluation sets that are the run's own instead of files."""


class RunSection(Settings):
    """What holds for all stages."""

    name: str
    seed: int = 0
    device: str = "auto"
    """``auto`` takes a GPU if there is one."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """What training computes in; parameters and optimiser state are float32 either way. ``auto`` is bf16, but fp32 on a
    CPU or GPU that has no quick products in bf16."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 leaves the choice to torch."""
    tensorboard: bool = False
    kernels: bool = True
    """Kernels of ours in training, Triton on a GPU and C++ on a CPU; false leaves all to PyTorch's own operations."""
    graphs: bool = True
    """Training steps as CUDA graphs, on one GPU; false launches each kernel apart."""
    profile: bool = False
    """Write a trace of two steps of every training stage (``--profile``)."""


class ModelSection(Settings):
    """The model: a preset, and values of ``ModelConfig`` to put in place of the preset's."""

    preset: str = "1m"
    overrides: dict[str, Any] = {}

    def config(self, vocab_size: int) -> ModelConfig:
        """The config for a tokenizer of ``vocab_size`` ids; the embedding is padded to a multiple of 64."""
        padded = -(-vocab_size // 64) * 64
        return ModelConfig.preset(self.preset, **{"vocab_size": padded, **self.overrides})


class ClusterSection(Settings):
    """Where the corpus is read, if not here: see docs/sources.md."""

    executor: Literal["local", "slurm", "ray"] = "local"
    tasks: int = Field(default=1, ge=1)
    options: dict[str, Any] = {}
    """Handed to datatrove's executor: time, partition, workers, mem_per_cpu_gb, ..."""


class CorpusSection(CorpusSettings):
    """Where text comes from, and what is kept of it (``CorpusSettings``)."""

    demo: bool = True
    """Use the corpus that comes with the package."""
    files: list[Annotated[Source, BeforeValidator(as_table)]] = []
    """Sources of one's own: paths, globs, ``hf://`` names, or tables that say more; see docs/sources.md."""
    audit: bool = True
    """Write pii.jsonl: what was replaced where, as keyed hashes."""
    cluster: ClusterSection | None = None
    """Read on a cluster instead of by processes of this machine."""
    decontaminate: list[str] = []
    """Evaluation sets that documents must not hold: files (JSON lines, Parquet, text), ``hf://`` names, or ``problems``
    and ``prompts``, the problems held out and the prompts of this recipe."""
    statements: int = Field(default=0, ge=0)
    """Documents of generated, verified statements to add (labels ``arithmetic`` and ``knowledge``)."""
    recalls: int = Field(default=0, ge=0)
    """Documents with a planted fact and a question for it to add (label ``recall``)."""
    recall_chars: list[int] = [600, 2400]
    """Shortest and longest of those, in characters; lengths are spread evenly over the logarithm."""
    workers: int = Field(default=2, ge=1)
    scorers: list[str] = []
    """Folders of scorers (``kaiyuan train-scorer``) whose scores are written into ``extra.scores``; docs/scores.md."""
    scorer: ScorerConfig | None = None
    """A scorer to train first: the config of ``kaiyuan train-scorer``."""
    mix_by: list[Literal["language", "domain", "origin", "quality"]] = []
    """What is added to labels for the mixture to choose by: ``web-en``, ``web-science``, ``web-natural``,
    ``web-best``."""
    best_share: float = Field(default=0.05, gt=0, le=1)
    """How much of each label's text is ``best`` under ``quality`` (paper: annealing on the best 5%)."""

    @model_validator(mode="after")
    def _scored(self) -> CorpusSection:
        if not self.scorers and self.scorer is None and set(self.mix_by) & {"domain", "quality"}:
            raise ValueError("mix_by: domain and quality need a scorer; name one in scorers, or train one by scorer")
        return self

    def files_read(self) -> list[Path]:
        """Scorers and evaluation sets; ``kaiyuan.corpus.stage.states`` looks at the sources."""
        scorers = [Path(name) / file for name in self.scorers for file in ("scorer.json", "scorer.safetensors")]
        labels = self.scorer.labels.files_read() if self.scorer is not None else []
        exams = [name for name in self.decontaminate if name not in OWN_SETS and not name.startswith("hf://")]
        return scorers + labels + [Path(name) for name in exams]

    def cleaning(self) -> CorpusSettings:
        """The settings of cleaning alone."""
        return CorpusSettings(**{name: getattr(self, name) for name in CorpusSettings.model_fields})


class TokenizerSection(Settings):
    """The tokenizer: one to train, or one to take over."""

    vocab_size: int = Field(default=6144, ge=300)
    path: str = ""
    """A folder or file with a tokenizer to use as it is."""

    def files_read(self) -> list[Path]:
        path = Path(self.path)
        if not self.path or not path.is_dir():
            return [path] if self.path else []
        return sorted(file for file in path.iterdir() if file.suffix in (".json", ".tiktoken") and file.is_file())


class SynthesisSection(Settings):
    """Verified chat data: instructions, preference pairs, and the problems held out for evaluation."""

    samples: int = Field(default=4000, ge=1)
    recall_samples: int = Field(default=0, ge=0)
    """Questions about a planted fact in a longer text."""
    recall_chars: list[int] = [200, 1500]
    preferences: int = Field(default=500, ge=1)
    """Preference pairs, as far as they go about questions that are not among the samples."""
    conversation_share: Share = Field(default=0.0, ge=0, le=1)
    """Share of the samples that are joined into conversations of two to four questions."""
    held_out: int = Field(default=400, ge=1)
    """Problems kept for evaluation."""
    held_out_share: Share = Field(default=0.1, gt=0, lt=1)
    kinds: list[str] = []
    """Kinds of problems to use; empty for all but those of ``kaiyuan.synthesis.reasoning``."""
    weights: dict[str, Annotated[float, Field(gt=0)]] = {}
    """How much more (or less) often than the others a kind occurs in training; 1 for those not named."""
    files: list[str] = []
    """Further chat samples: JSON lines with ``messages``, such as the sft.jsonl of ``kaiyuan synthesize-llm``."""

    def files_read(self) -> list[Path]:
        return [Path(name) for name in self.files]

    @model_validator(mode="after")
    def _known_kinds(self) -> SynthesisSection:
        unknown = [kind for kind in (*self.kinds, *self.weights) if kind not in ALL_KINDS]
        if unknown:
            raise ValueError(f"unknown kind {', '.join(map(repr, unknown))}; known: {', '.join(ALL_KINDS)}")
        return self


class RoutingSection(Settings):
    """See ``kaiyuan.model.routing.RoutingPolicy``."""

    mode: Literal["dropless", "drop", "recycle"] = "recycle"
    capacity_factor: float = Field(default=1.25, gt=0)
    min_capacity: int = Field(default=8, ge=1)
    overflow: Literal["probability", "position", "random"] = "probability"
    draw: Literal["content", "place"] = "content"


class TrainingSection(Settings):
    """What every training stage has. See ``kaiyuan.training.trainer.TrainerSettings``."""

    lr: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    """Sequences (pairs in DPO) per step."""
    micro_batches: int = Field(default=1, ge=1)
    recompute: Literal["none", "experts", "blocks"] = "none"
    """What the backward pass computes again instead of keeping it: less memory, more time."""
    moments: Literal["fp32", "bf16"] = "fp32"
    """AdamW's moments in a run of one process; bf16 needs less memory and time, and betas[1] of about 0.95 or less."""
    fp8: bool = False
    """Multiply in fp8 in feed-forward layers and attention's projections, forwards and to their inputs
    (docs/training.md): one GPU, Hopper or later."""
    warmup: int = Field(default=0, ge=0)
    decay_to: float = Field(default=0.4, ge=0, le=1)
    final_lr: float = Field(default=0.1, ge=0, le=1)
    anneal_share: Share = Field(default=0.05, ge=0, lt=1)
    expert_lr_ratio: float | None = Field(default=None, gt=0)
    """Left out: computed from ``batch_over_noise``, or the paper's 0.31 without it."""
    batch_over_noise: float | None = Field(default=None, gt=0)
    """Batch size over the gradient noise scale: ``x`` of ``kaiyuan.training.optimizer.expert_lr_ratio``."""
    ratio_reading: Literal["scaled_down", "literal"] = "scaled_down"
    betas: list[float] = [0.9, 0.95]
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, ge=0)
    balance_loss: float = Field(default=0.01, ge=0)
    z_loss: float = Field(default=0.0, ge=0)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    hidden_dropout: float = Field(default=0.0, ge=0, lt=1)
    routing: RoutingSection = RoutingSection()
    checkpoint_every: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _betas(self) -> TrainingSection:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: {self.betas} are not two numbers from 0 to under 1")
        return self


class MixtureStep(Settings):
    """Another mixture from a place of pre-training on."""

    at: Share = Field(gt=0, lt=1)
    """Share of the tokens before annealing that have been trained on by then."""
    mixture: dict[str, float]


class PretrainSection(TrainingSection):
    tokens: int = Field(ge=1)
    sequence_length: int = Field(ge=8)
    mixture: dict[str, float]
    """Weight of each label of the corpus, or of all labels that match a pattern such as ``*-zh-best``."""
    anneal_mixture: dict[str, float] = {}
    """The mixture of the annealing phase, the best data; empty to keep the mixture."""
    mixture_steps: list[MixtureStep] = []
    """Mixtures that take over from ``mixture`` before annealing (paper 2.3: the proportions change)."""
    mixture_file: str = ""
    """A TOML file of label = weight that takes the place of ``mixture``. It may be changed while the run is stopped:
    what has been trained on stays as it was, and mixture.jsonl says what held when."""
    max_epochs: dict[str, Annotated[float, Field(gt=0)]] = {}
    """How often a label may be gone through; its share goes to the others from then on."""
    shuffle: int = Field(default=256, ge=1)
    """Sequences whose labels are shuffled together; with 1 any beginning of the run has the proportions to within one
    sequence of each label."""


class ExtendStage(Settings):
    length: int = Field(ge=8)
    tokens: int = Field(ge=1)
    rope_theta: float = Field(gt=1)
    rope_alpha: float | None = None


class ExtendSection(TrainingSection):
    """``batch_size`` counts sequences of the first stage's length; later stages keep the tokens per step."""

    stages: list[ExtendStage]
    long_share: Share = Field(default=0.25, ge=0, le=1)
    """Share of sequences that lie within one long document (paper 2.3.3)."""
    mixture: dict[str, float]


class SftData(Settings):
    """One file of conversations."""

    path: str = Field(min_length=1)
    """``synthesis`` for what that stage wrote; else a folder that ``kaiyuan curate build`` wrote, or a JSON Lines file
    of ``{"messages": [...]}``."""
    weight: float = Field(default=1.0, gt=0, le=1000, allow_inf_nan=False)
    """How often each sample comes in an epoch; 0.5 takes half of them."""

    def file(self) -> Path | None:
        """Where the conversations are; None for those of the synthesis stage."""
        if self.path == "synthesis":
            return None
        path = Path(self.path)
        return path / "sft.jsonl" if path.is_dir() else path


class RecommendedSampling(Settings):
    """What a chat model's ``generation_config.json`` recommends: servers sample so unless a request says otherwise. The
    defaults are the release's, without its penalty for repetitions, which arithmetic is full of.
    """

    temperature: float = Field(default=0.7, gt=0, le=2)
    top_p: float = Field(default=0.6, gt=0, le=1)
    top_k: int = Field(default=20, ge=1)

    def generation_config(self) -> dict[str, Any]:
        """As transformers names it."""
        return {"do_sample": True, **self.model_dump()}


class SftSection(TrainingSection):
    epochs: int = Field(default=3, ge=1)
    sequence_length: int = Field(default=512, ge=16)
    data: Annotated[list[Annotated[SftData, BeforeValidator(as_table)]], Field(min_length=1)] = [
        SftData(path="synthesis")
    ]
    plain_share: Share = Field(default=0.0, ge=0, le=0.9)
    """Share of rows that are plain text of the corpus: without any, SFT forgets it."""
    plain_weight: float = Field(default=1.0, gt=0, le=1)
    """What a token of plain text weighs in the loss; one of an answer weighs 1."""
    plain_mixture: dict[str, float] = {}
    """Weights of the corpus' labels in it; empty for those of pre-training."""
    recommended: RecommendedSampling = RecommendedSampling()

    def files_read(self) -> list[Path]:
        return [path for item in self.data if (path := item.file()) is not None]


class DpoSection(TrainingSection):
    """Dropless by default: the reference is, and an answer's log-ratio must not depend on what else is in the batch."""

    routing: RoutingSection = RoutingSection(mode="dropless")
    steps: int = Field(ge=1)
    beta: float = Field(default=0.1, gt=0)
    sft_weight: float = Field(default=0.2, ge=0)
    ema_decay: float = Field(default=0.95, ge=0, lt=1)
    online_share: Share = Field(default=0.5, ge=0, le=1)
    samples: int = Field(default=4, ge=2)
    temperature: float = Field(default=1.0, ge=1e-6, le=100)
    max_tokens: int = Field(default=24, ge=1)
    recommended: RecommendedSampling = RecommendedSampling()
    pairs: list[str] = []
    """Further offline pairs: folders that ``kaiyuan curate build`` wrote, or JSON Lines files of ``messages``,
    ``chosen`` and ``rejected``."""

    def pair_files(self) -> list[Path]:
        return [path / "pairs.jsonl" if (path := Path(name)).is_dir() else path for name in self.pairs]

    def files_read(self) -> list[Path]:
        return self.pair_files()


class EvaluationSection(Settings):
    context: int = Field(default=512, ge=16)
    max_tokens: int = Field(default=24, ge=1)
    needle_lengths: list[int] = [512, 1024, 2048, 4096]
    needle_depths: list[float] = [0.0, 0.25, 0.5, 0.75, 1.0]
    needle_samples: int = Field(default=4, ge=0)
    """Questions per length and depth; 0 leaves the needle test out."""
    prompts: list[str] = []
    """Free prompts whose answers the report shows."""


class ParallelSection(Settings):
    """How training is divided among the processes of ``torchrun``; see docs/parallel.md. It changes no result but by
    rounding, so it may change in the middle of a run.
    """

    data_shard: int = Field(default=0, ge=0)
    """Ranks among which rows, weights and optimiser state are divided; 0 takes all that the others leave."""
    data_replicate: int = Field(default=1, ge=1)
    """Copies of the sharded model, each with rows of its own (HSDP)."""
    expert: int = Field(default=1, ge=1)
    """Ranks of ``data_shard`` among which experts are divided."""
    tensor: int = Field(default=1, ge=1)
    context: int = Field(default=1, ge=1)
    pipeline: int = Field(default=1, ge=1)
    pipeline_chunks: int = Field(default=1, ge=1)
    """Chunks of layers on each rank of ``pipeline``: the more, the shorter it waits and the more it sends."""
    decide: Literal["globally", "per rank"] = "globally"
    """Whether capacity, recycling and the balance loss look at all tokens, as one device does, or at a rank's own."""


class Recipe(Settings):
    """A whole run. Sections of training stages may be left out; their stages are skipped."""

    run: RunSection
    model: ModelSection = ModelSection()
    corpus: CorpusSection = CorpusSection()
    tokenizer: TokenizerSection = TokenizerSection()
    synthesis: SynthesisSection = SynthesisSection()
    pretrain: PretrainSection | None = None
    extend: ExtendSection | None = None
    sft: SftSection | None = None
    dpo: DpoSection | None = None
    evaluation: EvaluationSection = EvaluationSection()
    parallel: ParallelSection = ParallelSection()

    def has(self, stage: str) -> bool:
        """Whether the recipe asks for ``stage``."""
        return getattr(self, stage) is not None

    def files(self, sections: Sequence[str]) -> list[Path]:
        """Files that ``sections`` name and whose content decides what comes of them."""
        named = [getattr(self, name) for name in sections]
        return [path for section in named if isinstance(section, Settings) for path in section.files_read()]

    def changing_files(self, sections: Sequence[str]) -> list[Path]:
        """Such files that may change while a stage is interrupted, without what it has done being lost."""
        name = self.pretrain.mixture_file if self.pretrain is not None and "pretrain" in sections else ""
        return [Path(name)] if name else []


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``changes`` of the form ``section.key=value`` (``value`` in TOML; a bare word is a
    string).

    A ``ConfigError`` names the file and lists everything that is wrong with it.
    """
    values = read_toml(path)
    for change in changes:
        _apply(values, change)
    recipe = checked(Recipe, values, path)
    try:
        recipe.model.config(recipe.tokenizer.vocab_size)
    except ConfigError as error:
        raise ConfigError(f"{path}: [model]: {error}") from None
    return recipe


def _apply(values: dict[str, Any], change: str) -> None:
    key, sign, text = change.partition("=")
    *sections, name = key.strip().split(".")
    if not sign or not sections or not all((*sections, name)):
        raise ConfigError(f"--set {change}: write section.key=value, for example pretrain.lr=0.001")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {change}: {section} is a value, not a section")
    place[name] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def dump(recipe: Recipe) -> str:
    """The recipe with every default filled in, as JSON."""
    return json.dumps(recipe.model_dump(), indent=2, ensure_ascii=False, sort_keys=True)
