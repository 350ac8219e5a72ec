"""Describes a model file or directory without running it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from backends.api import LoadableModel
from backends.errors import BackendError, ModelError
from backends.loading import open_model
from backends.models.spec import ModelSpec
from backends.text.load import load_text, read_template
from backends.weights.files import open_regular
from backends.weights.gguf import read_gguf, read_metadata
from backends.weights.safetensors import read_safetensors_folder
from backends.weights.tensor import StoredTensor

_CHUNK_BYTES = 1 << 22
_WEIGHT_SUFFIXES = (".safetensors", ".gguf")


class FormatCount(msgspec.Struct, frozen=True):
    """Tensors, weights and bytes of a model stored in one format."""

    format: str
    tensors: int
    weights: int
    num_bytes: int


class TemplateSummary(msgspec.Struct, frozen=True):
    """Summary of a chat template, recognisable and short."""

    first_line: str
    characters: int
    sha256: str


class FileDigest(msgspec.Struct, frozen=True):
    """Digest of a file with weights."""

    name: str
    num_bytes: int
    sha256: str


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """Output of `hostelry models inspect`. What could not be read is `None` or empty, and `error` gives the reason."""

    path: Path
    kind: str
    architecture: str | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    context_length: int | None = None
    vocab_size: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    features: tuple[str, ...] = ()
    """Features that a runner must support beyond a plain Llama."""
    parameters: int = 0
    num_bytes: int = 0
    """Total of all tensors."""
    formats: tuple[FormatCount, ...] = ()
    chat_template: TemplateSummary | None = None
    files: tuple[FileDigest, ...] = ()
    notes: tuple[str, ...] = ()
    runner: str = ""
    """The engine that would serve it here, if it can be served."""
    error: str = ""
    """Reason why this build cannot serve the model; empty if it can."""

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.num_bytes / self.parameters if self.parameters else 0.0


def inspect_model(
    path: Path, *, checksum: bool, progress: Callable[[float, str], None], choose: Callable[[set[str]], str]
) -> Inspection:
    """Inspect a GGUF file or model directory. Raises `ModelError` only if nothing can be read.

    `choose` gets the formats in use and returns the name of a runner that takes them, or raises `BackendError`.
    """
    found = _describe_tensors(Inspection(path=path, kind=_kind(path)), path)
    try:
        model = open_model(path)
        found = _describe_model(found, model)
        load_text(path)
        found = _replaced(found, runner=choose({tensor.format for tensor in model.tensors.values()}))
    except BackendError as error:
        found = _replaced(found, error=str(error))
    found = _describe_text(found, path)
    return _replaced(found, files=tuple(_digests(path, progress))) if checksum else found


def _kind(path: Path) -> str:
    return "Hugging Face folder" if path.is_dir() else "GGUF file"


def _replaced(inspection: Inspection, **changes: object) -> Inspection:
    return msgspec.structs.replace(inspection, **changes)


def _describe_tensors(found: Inspection, path: Path) -> Inspection:
    """Add facts from the stored tensors alone, which are readable for unsupported models, too."""
    if path.is_dir():
        _open_or_explain(path)
        stored: Iterable[StoredTensor] = read_safetensors_folder(path).values()
        return _replaced(found, **_tensor_fields(stored))
    with open_regular(path) as file:
        if file.read(4) != b"GGUF":
            open_model(path)  # raises an error that names the actual format
    try:
        stored = read_gguf(path).tensors.values()
    except BackendError as error:
        metadata = read_metadata(path)
        return _replaced(found, architecture=_text(metadata.get("general.architecture")), error=str(error))
    architecture = _text(read_metadata(path).get("general.architecture"))
    return _replaced(found, architecture=architecture, **_tensor_fields(stored))


def _open_or_explain(folder: Path) -> None:
    """Raise the loader's own `ModelError` for a directory without any weights."""
    if not any(entry.suffix == ".safetensors" for entry in folder.iterdir()):
        open_model(folder)


def _tensor_fields(tensors: Iterable[StoredTensor]) -> dict[str, object]:
    counts: dict[str, FormatCount] = {}
    for tensor in tensors:
        old = counts.get(tensor.format, FormatCount(tensor.format, 0, 0, 0))
        counts[tensor.format] = FormatCount(
            tensor.format,
            old.tensors + 1,
            old.weights + math.prod(tensor.shape),
            old.num_bytes + tensor.data.nbytes,
        )
    formats = tuple(sorted(counts.values(), key=lambda count: -count.num_bytes))
    return {
        "formats": formats,
        "parameters": sum(count.weights for count in formats),
        "num_bytes": sum(count.num_bytes for count in formats),
    }


def _describe_model(found: Inspection, model: LoadableModel) -> Inspection:
    spec = model.spec
    return _replaced(
        found,
        architecture=found.architecture or spec.family,
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        context_length=spec.max_context,
        vocab_size=spec.vocab_size,
        eos_token_ids=spec.eos_token_ids,
        features=tuple(_features(spec)),
        notes=spec.notes,
    )


def _features(spec: ModelSpec) -> Iterable[str]:
    if spec.num_heads != spec.num_kv_heads:
        yield f"grouped-query attention ({spec.num_heads} heads, {spec.num_kv_heads} of keys and values)"
    if spec.windows:
        windowed = sum(window > 0 for window in spec.windows)
        yield f"attention windows of {max(spec.windows)} tokens in {windowed} of {spec.num_layers} layers"
    if spec.num_experts:
        yield f"mixture of experts ({spec.experts_per_token} of {spec.num_experts} a token)"
    if spec.rope_scaling is not None:
        yield f"rotary scaling ({spec.rope_scaling.kind})"
    switches = {
        "biases of query, key and value": spec.qkv_bias,
        "query and key norms": spec.qk_norm or spec.qk_norm_whole,
        "norms after attention and MLP": spec.post_norm,
        "capped attention scores": bool(spec.attention_softcap),
        "capped logits": bool(spec.final_softcap),
        "head tied to the embedding": spec.tied_head,
    }
    yield from (name for name, is_on in switches.items() if is_on)
    if spec.activation != "silu":
        yield f"activation {spec.activation}"


def _describe_text(found: Inspection, path: Path) -> Inspection:
    try:
        source = read_template(path)
    except ModelError as error:
        return _replaced(found, error=found.error or str(error))
    if source is None:
        return found
    lines = source.text.strip().splitlines()
    digest = hashlib.sha256(source.text.encode("utf-8", "surrogatepass")).hexdigest()
    return _replaced(found, chat_template=TemplateSummary(lines[0] if lines else "", len(source.text), digest))


def _digests(path: Path, progress: Callable[[float, str], None]) -> Iterable[FileDigest]:
    files = sorted(entry for entry in path.iterdir() if entry.suffix in _WEIGHT_SUFFIXES) if path.is_dir() else [path]
    total, done = max(1, sum(file.stat().st_size for file in files)), 0
    for file in files:
        digest, size = hashlib.sha256(), 0
        with open_regular(file) as opened:
            while piece := opened.read(_CHUNK_BYTES):
                digest.update(piece)
                size += len(piece)
                progress((done + size) / total, file.name)
        done += size
        yield FileDigest(file.name, size, digest.hexdigest())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
