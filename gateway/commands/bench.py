"""Command `hostelry bench`: speed of a model, alone or compared with another server, and quality of each format."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec

from backends.registry import runner_names
from gateway.demo import model_path


@click.command("bench")
@click.option("--model", default=None, help="Path or hub id; default: the bundled demo model.")
@click.option("--backend", type=click.Choice(["auto", *runner_names()]), default="auto", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Compute threads; 0: one per physical core.")
@click.option(
    "--against", metavar="URL", default=None, help="URL of another OpenAI server, up to /v1, measured in the same run."
)
@click.option("--against-model", default="default", show_default=True)
@click.option("--against-key", default="", help="Key for --against; prefer the variable HOSTELRY_BENCH_AGAINST_KEY.")
@click.option("--streams", default="1,4,8", show_default=True, help="Concurrent requests, separated by commas.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--score", "text", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=None)
@click.option("--formats", default="", help="Formats for --score and --kernels, separated by commas.")
@click.option("--kernels", is_flag=True, help="Measure the CPU kernels alone, for --formats or for all.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: str | None,
    backend: str,
    device: str,
    threads: int,
    against: str | None,
    against_model: str,
    against_key: str,
    streams: str,
    prompt_tokens: int,
    tokens: int,
    rounds: int,
    text: Path | None,
    formats: str,
    kernels: bool,
    as_json: bool,
) -> None:
    """Measure over HTTP what a client gets: tokens a second, time to first token, memory.

    With --score TEXT: perplexity of the text, as stored and in each of --formats. With --kernels: products by format
    and number of rows, and the ceilings of memory and of integer arithmetic.

    \b
    hostelry bench --model ./qwen3-0.6b-q8_0.gguf --streams 1,8
    hostelry bench --model ./m.gguf --against http://127.0.0.1:8080/v1
    hostelry bench --model ./folder --score wiki.txt --formats Q8_0,Q4_K
    hostelry bench --kernels --formats Q4_0,Q4_K
    """
    from gateway.bench.kernels import measure_kernels
    from gateway.bench.load import BenchFailed, Target
    from gateway.bench.run import measure, score_formats
    from gateway.bench.sweep import SweepShape

    serve = ["--model", f"bench={model or model_path()}", "--backend", backend, "--device", device]
    serve += ["--threads", str(threads)]
    try:
        if kernels:
            measure_kernels(tuple(_listed(formats)), threads=threads, as_json=as_json)
            return
        if text is not None:
            score_formats(serve, text.read_text(encoding="utf-8"), _listed(formats), as_json=as_json)
            return
        other = None
        if against is not None:
            other = Target(label=against, url=against.rstrip("/"), model=against_model, key=against_key)
        shape = SweepShape(streams=_counts(streams), prompt_tokens=prompt_tokens, tokens=tokens, rounds=rounds)
        asyncio.run(measure(serve, shape, other, as_json=as_json))
    except BenchFailed as error:
        raise click.ClickException(str(error)) from None
    except UnicodeDecodeError:
        raise click.ClickException(f"{text} is not UTF-8 text") from None


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = msgspec.convert(_listed(text), tuple[int, ...], strict=False)
    except msgspec.ValidationError:
        counts = ()
    if not counts or min(counts) < 1 or max(counts) > 1024:
        raise click.UsageError(f"--streams {text}: expected numbers from 1 to 1024, such as 1,4,8")
    return counts
