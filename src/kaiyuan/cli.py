"""The command line. Heavy modules are imported by the command that needs them, so ``--help`` answers at once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kaiyuan.curation.cli import curate, review
from kaiyuan.errors import KaiyuanError
from kaiyuan.team import is_main

app = typer.Typer(
    name="kaiyuan",
    help="Make and run language models of the Hunyuan-Large kind, from raw text to a model that answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in TOML, such as recipes/demo.toml.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change a value of the recipe; may be repeated.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run's folder (default: runs/<name>).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Do finished stages again whose settings have changed.")]
Profile = Annotated[
    bool, typer.Option("--profile", help="Write a trace of two training steps (opens in Perfetto) and their kernels.")
]
ModelFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A model folder, or a run folder (its newest model).")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Settings for every command."""
    if version:
        from kaiyuan import __version__

        print(f"kaiyuan {__version__}")
        raise typer.Exit
    if debug:
        os.environ["KAIYUAN_DEBUG"] = "1"


_PROFILE = {False: [], True: ["run.profile=true"]}


def _stage_command(name: str, stage: str, what: str) -> None:
    def command(recipe: RecipeFile, changes: Changes = None, out: Out = None, overwrite: Overwrite = False) -> None:
        _execute(recipe, changes, out, stage, overwrite)

    def training(
        recipe: RecipeFile, changes: Changes = None, out: Out = None, overwrite: Overwrite = False,
        profile: Profile = False,
    ) -> None:  # fmt: skip
        _execute(recipe, [*(changes or []), *_PROFILE[profile]], out, stage, overwrite)

    command = training if stage in ("pretrain", "extend", "sft", "dpo") else command
    command.__doc__ = f"{what}\n\nExample: kaiyuan {name} recipes/demo.toml --out runs/demo"
    app.command(name)(command)


def _execute(path: Path, changes: list[str] | None, out: Path | None, only: str | None, overwrite: bool) -> None:
    from kaiyuan.recipe import load_recipe
    from kaiyuan.run import execute

    recipe = load_recipe(path, changes or [])
    done = execute(recipe, out or Path("runs") / recipe.run.name, only, overwrite)
    if is_main():
        print(done)


@app.command("run")
def run_command(
    recipe: RecipeFile, changes: Changes = None, out: Out = None, overwrite: Overwrite = False, profile: Profile = False
) -> None:
    """Do all stages of a recipe and write the report. Run it again to go on where it was interrupted.

    Example: kaiyuan run recipes/demo.toml --set pretrain.lr=0.002 --out runs/mine
    """
    _execute(recipe, [*(changes or []), *_PROFILE[profile]], out, None, overwrite)


@app.command("corpus")
def corpus_command(
    recipe: RecipeFile,
    changes: Changes = None,
    out: Out = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Clean a sample, show what goes and why, and write nothing.")
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="Documents that a dry run looks at.")] = 2000,
    examples: Annotated[int, typer.Option(min=0, help="Examples of each kind that a dry run shows.")] = 2,
) -> None:
    """Collect, clean, anonymise, deduplicate and split the text.

    Example: kaiyuan corpus recipes/demo.toml --out runs/demo

    Example: kaiyuan corpus recipes/demo.toml --dry-run --sample 500
    """
    if not dry_run:
        _execute(recipe, changes, out, "corpus", overwrite)
        return
    from kaiyuan.corpus.dry_run import dry_run as show
    from kaiyuan.recipe import load_recipe

    show(load_recipe(recipe, changes or []), sample, examples)


for _name, _stage, _what in (
    ("tokenizer", "tokenizer", "Train the tokenizer and turn the corpus into token shards."),
    ("synthesize", "synthesis", "Make verified chat samples, preference pairs and held-out problems."),
    ("pretrain", "pretrain", "Train a new model on the corpus."),
    ("extend", "extend", "Continue the model on longer and longer sequences."),
    ("sft", "sft", "Fine-tune the model on chat samples."),
    ("dpo", "dpo", "Align the model on offline and online preference pairs."),
    ("evaluate", "evaluation", "Measure every model of the run on held-out text and problems."),
):
    _stage_command(_name, _stage, _what)


@app.command("synthesize-llm")
def synthesize_llm(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config in TOML; see docs/synthesis-llm.md.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: runs/<run.name>.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; print calls, tokens and cost.")] = False,
) -> None:
    """Make chat samples with language models behind OpenAI-compatible endpoints. Run it again to go on.

    Example: kaiyuan synthesize-llm synthesis.toml --dry-run
    """
    from kaiyuan.synthesis.llm.command import synthesize_llm as make

    print(make(config, out, dry_run))


@app.command("train-scorer")
def train_scorer(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config in TOML; see docs/scores.md.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the scorer.")] = Path("runs/scorer"),
) -> None:
    """Train scorers of quality, educational value, toxicity and category from labels of a file or a model.

    Example: kaiyuan train-scorer scorer.toml --out runs/scorer
    """
    from kaiyuan.corpus.scores.command import train_scorer as train

    train(config, out)
    print(out / "report.html")


app.add_typer(curate, name="curate")
app.command()(review)


@app.command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Write the report of a run folder again, finished or not.

    Example: kaiyuan report runs/demo
    """
    from kaiyuan.report import write_report

    print(write_report(run))


@app.command()
def chat(
    model: ModelFolder,
    system: Annotated[str, typer.Option(help="A system message.")] = "",
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    seed: Annotated[int | None, typer.Option(help="Makes sampling reproducible.")] = None,
) -> None:
    """Talk to a model in the terminal. Ctrl-C stops the answer, Ctrl-D leaves. Also reads from a pipe.

    Example: kaiyuan chat runs/demo          echo "What is 17 + 25?" | kaiyuan chat runs/demo
    """
    from kaiyuan.inference.params import SamplingParams
    from kaiyuan.serving.terminal import chat as talk

    talk(find_model(model), SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed), system)


@app.command()
def serve(
    model: ModelFolder,
    host: Annotated[
        str, typer.Option(help="Any other address than this machine's own needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Holds API keys, one a line; else $KAIYUAN_API_KEY.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the API calls the model; default: from the folder's name.")] = "",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    kv_dtype: Annotated[str, typer.Option(help="Of the KV cache: auto, bfloat16, fp8, int8, ...")] = "auto",
    quantize: Annotated[str | None, typer.Option(help="Code the weights when loading: int8, int4 or fp8.")] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Sequences computed together.")] = 64,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="Tokens computed in one step.")] = 2048,
    cache_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens in the KV cache; default: 1 GiB of them, 85% of a GPU.")
    ] = None,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused (429).")] = 256,
    request_seconds: Annotated[float, typer.Option(min=1, help="Longest time for an answer.")] = 600,
    drain_seconds: Annotated[float, typer.Option(min=0, help="Time to finish answers at SIGTERM.")] = 30,
    metrics_prefix: Annotated[str, typer.Option(help="Of metrics' names; vllm suits dashboards for vLLM.")] = "kaiyuan",
    speculative_tokens: Annotated[int, typer.Option(min=0, help="Tokens guessed ahead from the text itself.")] = 0,
) -> None:
    """Serve a model: OpenAI's API and a chat page, on this machine only unless there is an API key.

    Example: kaiyuan serve runs/demo          then open http://127.0.0.1:8000
    """
    from kaiyuan.serving.server import serve as listen
    from kaiyuan.serving.settings import Limits, read_api_keys

    listen(
        find_model(model),
        host,
        port,
        api_keys=read_api_keys(api_key_file),
        model_name=name,
        dtype=dtype,
        device=device,
        limits=Limits(max_waiting=max_waiting, request_seconds=request_seconds),
        metrics_prefix=metrics_prefix,
        drain_seconds=drain_seconds,
        kv_dtype=kv_dtype,
        quantize=quantize,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        cache_tokens=cache_tokens,
        speculative_tokens=speculative_tokens,
    )


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A model folder: safetensors or .bin, sharded or not.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Where to write it as safetensors.")],
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: as it is.")] = None,
    quantize: Annotated[str | None, typer.Option(help="int8, int4 or fp8 for the matrices of layers.")] = None,
    check: Annotated[
        bool, typer.Option(help="After quantising, measure bits per byte of sample text before and after.")
    ] = True,
) -> None:
    """Convert a model folder to safetensors with the release's names, without building the model.

    Example: kaiyuan convert Hunyuan-A52B-Instruct hunyuan-large-safetensors --dtype bfloat16

    Example: kaiyuan convert runs/demo/pretrain/model demo-int8 --quantize int8
    """
    from kaiyuan.checkpoint import convert as convert_folder
    from kaiyuan.model.dtypes import compute_dtype
    from kaiyuan.model.quantization import scheme_named

    scheme = None if quantize is None else scheme_named(quantize)
    convert_folder(source, target, dtype=None if dtype is None else compute_dtype(dtype), quantize=scheme)
    if scheme is not None and check:
        from kaiyuan.evaluation.quality import quality_change

        print(quality_change(source, target))
    print(target)


@app.command()
def inspect(folder: ModelFolder) -> None:
    """Say what a checkpoint is: format, config, parameters, KV cache, problems (exit code 1). Reads headers only.

    Example: kaiyuan inspect runs/demo
    """
    from kaiyuan.checkpoint import describe_report, inspect_folder

    report = inspect_folder(find_model(folder))
    print(describe_report(report))
    if report["problems"]:
        raise typer.Exit(1)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A preset (hunyuan-large, 1b, ...) or a model folder.")],
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs share the work.")] = 8,
    kind: Annotated[
        str | None, typer.Option(help="h100, h200, h800, h20 or a100: list the layouts on such GPUs.")
    ] = None,
    gpu_memory: Annotated[float, typer.Option(min=1, help="Memory of one GPU in GiB, without --kind.")] = 80.0,
    tflops: Annotated[float, typer.Option(min=0.1, help="What one reaches, in TFLOP/s, without --kind.")] = 350.0,
    tokens: Annotated[str, typer.Option(help="Tokens to train on: 7T, 7e12.")] = "7T",
    context: Annotated[int, typer.Option(min=1, help="Sequence length.")] = 4096,
    batch: Annotated[
        str, typer.Option(help="Tokens of a step, with --kind; 8M is 2,048 sequences of 4,096.")
    ] = "8388608",
    price: Annotated[float | None, typer.Option(min=0, help="Dollars an hour and GPU, with --kind.")] = None,
    decide: Annotated[str, typer.Option(help="As [parallel] decide: globally or 'per rank'.")] = "globally",
    json: Annotated[bool, typer.Option("--json", help="All layouts for other programs, with --kind.")] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Follow a step of the best layout in the real program too, with --kind.")
    ] = False,
) -> None:
    """Work out parameters, memory, KV cache, layouts and training time from the config alone, before you pay.

    Example: kaiyuan plan hunyuan-large --gpus 2048 --kind h100 --tokens 7T
    """
    from kaiyuan.scaling.plan import describe_plan, number

    if kind is None:
        if json or trace:
            raise KaiyuanError("--json and --trace are of layouts: name the GPUs with --kind")
        print(describe_plan(model, gpus, gpu_memory, tflops, number(tokens), context))
        return
    from kaiyuan.scaling.layouts_text import describe_layouts

    print(describe_layouts(model, kind, gpus, number(tokens), context, number(batch), price, decide, json, trace))


@app.command()
def scale(
    recipe: RecipeFile,
    out: Out = None,
) -> None:
    """Fit the MoE scaling law to a table of training runs and plan the best model for a budget.

    Example: kaiyuan scale recipes/scale.toml
    """
    from kaiyuan.scaling.fit import run_scale

    print(run_scale(recipe, out))


def find_model(folder: Path) -> Path:
    """``folder`` itself if it is a model, else the model of the stage or the newest of the run whose folder it is."""
    for place in (".", "model", "dpo/model", "sft/model", "extend/model", "pretrain/model"):
        if (folder / place / "config.json").is_file():
            return folder / place
    problem = "neither a model folder (config.json) nor a run folder with a trained model"
    raise KaiyuanError(f"{folder}: {problem if folder.exists() else 'no such folder'}")


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: errors that the user can mend, the file system's too, become one message and exit code 1."""
    try:
        return app(args=arguments, standalone_mode=True)
    except KaiyuanError as error:
        if os.environ.get("KAIYUAN_DEBUG"):
            raise
        if is_main():
            print(f"kaiyuan: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if os.environ.get("KAIYUAN_DEBUG"):
            raise
        problem = f"{error.filename}: {error.strerror}" if error.filename else error
        print(f"kaiyuan: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("kaiyuan: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
