"""Compares what our own reader makes of a new file with its source: the model, and the ids of texts."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np

from backends.models.families import spec_from_metadata
from backends.models.spec import ModelSpec
from backends.text.load import load_tokenizer
from backends.text.tokenizer import Tokenizer
from backends.weights.gguf.cursor import Cursor
from backends.weights.gguf.metadata import MetadataValue, read_header, read_pairs
from backends.weights.gguf.writer import EncodedValue, GgufWriter

_NAMES_AND_NOTES = ("family", "notes", "attention_scale", "eos_token_ids")
"""Not compared: names and notes may differ; the scale is compared as `score_scale`, the ends as a set."""
_TOLERANCE = 1e-6
"""GGUF files hold float32."""

_PROBE_TEXTS = (
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


def decoded(metadata: Mapping[str, EncodedValue], *, where: str) -> dict[str, MetadataValue]:
    """The values behind encoded metadata, read by the reader of files."""
    head = GgufWriter(BytesIO(), metadata=metadata, tensors=()).head
    with mmap.mmap(-1, len(head)) as data:
        data.write(head)
        cursor = Cursor(data, Path(where))
        _, num_pairs = read_header(cursor)
        return read_pairs(cursor, num_pairs)


def spec_faults(
    spec: ModelSpec,
    metadata: Mapping[str, EncodedValue],
    *,
    tensor_names: Sequence[str],
    rope_factors: Sequence[float] | None,
    short_rope_factors: Sequence[float] | None,
    where: str,
) -> tuple[str, ...]:
    """A sentence for each way in which the model read back would differ. Raises as the reader does."""
    read = spec_from_metadata(
        decoded(metadata, where=where),
        tensor_names=tensor_names,
        rope_factors=_as_float32(rope_factors),
        short_rope_factors=_as_float32(short_rope_factors),
        where=where,
    ).spec
    wanted, found = _comparable(spec), _comparable(read)
    faults = [
        f"GGUF metadata cannot express {name}: {wanted[name]!r} would be read as {found[name]!r}"
        for name in wanted
        if not _same(wanted[name], found[name])
    ]
    missing = set(spec.eos_token_ids) - set(read.eos_token_ids)
    if missing:
        faults.append(f"GGUF metadata cannot name all end tokens: {sorted(missing)} would be left out")
    return tuple(faults)


def _as_float32(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in np.asarray(values, np.float32)]


def _comparable(spec: ModelSpec) -> dict[str, object]:
    scaling = spec.rope_scaling
    if scaling is not None and scaling.kind == "factors":  # they hold all that matters of the original context
        spec = msgspec.structs.replace(spec, rope_scaling=msgspec.structs.replace(scaling, original_context=0))
    values: dict[str, object] = msgspec.to_builtins(spec)
    kept = {name: value for name, value in values.items() if name not in _NAMES_AND_NOTES}
    return kept | {"score_scale": spec.score_scale, "bos_token_id": None}


def _same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= _TOLERANCE * max(abs(a), abs(b))
    return a == b


def tokenizer_faults(folder: Path, written: Path) -> Iterator[str]:
    """The first text, if any, that the tokenizer of the GGUF file `written` reads differently from that of `folder`.

    Raises `ModelError` if one of them cannot be read.
    """
    ours, theirs = load_tokenizer(written), load_tokenizer(folder)
    for text in _probes(theirs):
        found, wanted = ours.encode(text), theirs.encode(text)
        if found != wanted:
            yield f"the text {text!r} would become the tokens {_shortened(found)} instead of {_shortened(wanted)}"
            return


def _probes(tokenizer: Tokenizer) -> Iterator[str]:
    yield from _PROBE_TEXTS
    for special in sorted(tokenizer.specials)[:_MAX_SPECIALS]:
        yield f"{special}a {special} b\n{special}\nc{special}"


def _shortened(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 12 else f"{str(ids[:12])[:-1]}, …]"
