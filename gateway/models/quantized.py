"""Quantizing a model so that it also reads text as before: the tokenizer of the new file is compared with the old."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backends.quantize import QuantizeProgress, QuantizeReport, quantize_file, quantized_name
from backends.text.load import load_tokenizer
from backends.text.tokenizer import Tokenizer

_TEXTS = (
    "",
    "Hello, world!",
    " leading and trailing  ",
    "\n\nTwo\n\n\nbreaks\t\tand tabs\r\n",
    "It's 12345.67 (about 3/4) -- isn't it? YES!!! don'T",
    "def step(batch):\n    return [x**2 for x in batch if x >= 0x1F]  # done\n",
    '{"key": [1, 2.5e-3, null], "path": "C:\\\\dir\\\\file_name.txt"}',
    "Größe, naïve café, Übermut, Ærø",
    "Привет, как дела? Γειά σου",
    "你好，世界。日本語のテスト 한국어 시험",
    "مرحبا بالعالم नमस्ते दुनिया ไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 ½ ² Ⅷ ٣",
    "aaaa aaaaa      spaces  a b  c   d",
)
_MAX_SPECIALS = 2000


def quantize_model(
    source: Path,
    destination: Path,
    *,
    format: str,
    progress: QuantizeProgress = lambda _fraction, _tensor: None,
    importance: Path | None = None,
    pure: bool = False,
    overwrite: bool = False,
    keep_going: bool = False,
    threads: int = 0,
) -> QuantizeReport:
    """As `backends.quantize.quantize_file`; a tokenizer that gives other ids is a fault, found before the weights."""

    def check(written: Path) -> list[str]:
        return list(tokenizer_faults(source, written)) if source.is_dir() else []

    return quantize_file(
        source,
        destination,
        format=format,
        progress=progress,
        importance=importance,
        pure=pure,
        overwrite=overwrite,
        keep_going=keep_going,
        threads=threads,
        check=check,
    )


def quantized_model(source: Path, *, format: str, directory: Path, progress: QuantizeProgress) -> Path:
    """The model in another format, made at first and found again later; `directory` holds all such files.

    What GGUF cannot express about a tokenizer is a fault. Raises `ModelError`.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / quantized_name(source, format=format, pure=False, importance=None)
    if not path.exists():
        quantize_model(
            source, path, format=format, progress=lambda part, tensor: progress(part, f"quantizing {tensor}")
        )
    return path


def tokenizer_faults(folder: Path, written: Path) -> Iterator[str]:
    """The first text, if any, that the tokenizer of the GGUF file `written` reads otherwise than that of `folder`.

    Raises `ModelError` if one of them cannot be read.
    """
    ours, theirs = load_tokenizer(written), load_tokenizer(folder)
    for text in _probes(theirs):
        found, wanted = ours.encode(text), theirs.encode(text)
        if found != wanted:
            yield f"the text {text!r} would become the tokens {_short(found)} instead of {_short(wanted)}"
            return


def _probes(tokenizer: Tokenizer) -> Iterator[str]:
    yield from _TEXTS
    for special in sorted(tokenizer.specials)[:_MAX_SPECIALS]:
        yield f"{special}a {special} b\n{special}\nc{special}"


def _short(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 12 else f"{str(ids[:12])[:-1]}, …]"
