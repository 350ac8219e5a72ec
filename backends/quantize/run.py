"""Quantizes a model from file to file, a few rows at a time."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backends.errors import ModelError
from backends.loading import open_model
from backends.quantize.destination import check_destination, partial_path, written_whole
from backends.quantize.folder_source import open_folder_source
from backends.quantize.importance import read_importance
from backends.quantize.plan import PlannedTensor, QuantizePlan, make_plan
from backends.quantize.readback import tokenizer_faults
from backends.quantize.recipes import recipe_by_name
from backends.quantize.report import QuantizeReport, report_of
from backends.quantize.source import QuantizeSource, TensorPart, open_gguf_source
from backends.weights.formats import FORMATS
from backends.weights.gguf.writer import GgufWriter


def release_pages(data: npt.NDArray[np.uint8]) -> None:
    """Drop the pages of a view of a mapped file from this process; reading them again fetches them again.

    Does nothing for arrays of another kind, and where the system has no such call.
    """
    base: object = data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if not isinstance(base, mmap.mmap) or advice is None:
        return
    start = data.ctypes.data - np.frombuffer(base, np.uint8, count=1).ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # the pages at both ends are shared with other tensors
    end = (start + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        base.madvise(advice, first, end - first)


QuantizeProgress = Callable[[float, str], None]
"""Called with the fraction of the file that is written, 0 to 1, and the tensor under way."""
U8 = npt.NDArray[np.uint8]

_CHUNK_ELEMENTS = 1 << 20
_MAX_THREADS = 16


def quantize_file(
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
    """Write the model of `source` (GGUF file or Hugging Face folder) as the GGUF file `destination`.

    `format` is a name from `backends.quantize.RECIPES`; `pure` stores every matrix in its base format, `importance` is
    a file of llama-imatrix. What a GGUF file cannot express ends the run, or with `keep_going` is reported; so does a
    tokenizer that would give a text other ids, which is found before the weights are read. The file appears whole or
    not at all; memory holds a few rows of one tensor for each of `threads` (0: one a core).

    Raises `UnknownFormat`, `DestinationRefused` and `DestinationFailed` (both before `source` is read in full),
    `ModelError` naming file and tensor, and its subclass `UnsupportedModel`.
    """
    recipe = recipe_by_name(format, pure=pure)
    check_destination(destination, source=source, overwrite=overwrite)
    weights = None if importance is None else read_importance(importance)
    opened = open_folder_source(source) if source.is_dir() else _open_file(source)
    _refuse_faults(source, opened.faults, keep_going=keep_going)
    plan = make_plan(opened, recipe, weights)
    found: tuple[str, ...] = ()
    with written_whole(destination, num_bytes=_size(plan, opened)) as file:
        writer = GgufWriter(file, metadata=plan.metadata, tensors=plan.entries, alignment=opened.alignment)
        writer.write_head()
        if source.is_dir():
            file.flush()
            found = tuple(tokenizer_faults(source, partial_path(destination)))
            _refuse_faults(source, found, keep_going=keep_going)
        _write_tensors(writer, plan, source, progress, threads=threads)
        writer.finish()
        file.flush()
        open_model(partial_path(destination))  # what our own reader refuses never takes the place
    return report_of(plan, recipe, destination=destination, extra_notes=opened.faults + found)


def _open_file(source: Path) -> QuantizeSource:
    open_model(source)  # tells pickles and other strangers apart
    return open_gguf_source(source)


def _refuse_faults(source: Path, faults: Sequence[str], *, keep_going: bool) -> None:
    if faults and not keep_going:
        raise ModelError(f"{source}: {'; '.join(faults)} (--keep-going writes the file all the same)")


def _size(plan: QuantizePlan, source: QuantizeSource) -> int:
    with Path(os.devnull).open("wb") as nowhere:
        writer = GgufWriter(nowhere, metadata=plan.metadata, tensors=plan.entries, alignment=source.alignment)
        return writer.num_bytes


def _write_tensors(
    writer: GgufWriter, plan: QuantizePlan, source: Path, progress: QuantizeProgress, *, threads: int
) -> None:
    total, done = max(1, sum(tensor.entry.num_bytes for tensor in plan.tensors)), 0
    workers = min(threads or os.cpu_count() or 1, _MAX_THREADS)
    with ThreadPoolExecutor(workers) as pool:
        for tensor in plan.tensors:
            progress(done / total, tensor.entry.name)
            for rows in _encoded(tensor, pool, source, workers=workers):
                writer.write_rows(rows)
                done += rows.nbytes
                progress(done / total, tensor.entry.name)
            for part in tensor.source.parts:
                release_pages(part.tensor.data)


def _encoded(tensor: PlannedTensor, pool: ThreadPoolExecutor, source: Path, *, workers: int) -> Iterator[U8]:
    """The tensor's rows in order; at most a chunk a worker is in memory."""

    def encode(chunk: tuple[int, TensorPart, int, int]) -> U8:
        try:
            return _encoded_chunk(tensor, *chunk)
        except ModelError as error:
            raise type(error)(f"{source}: tensor {tensor.entry.name!r}: {error}") from error

    chunks = tensor.source.chunks(max(1, _CHUNK_ELEMENTS // tensor.entry.shape[-1]))
    while batch := list(islice(chunks, workers)):
        yield from pool.map(encode, batch)


def _encoded_chunk(tensor: PlannedTensor, matrix: int, part: TensorPart, start: int, stop: int) -> U8:
    rows, stored = part.rows(start, stop), part.tensor.format
    if stored == tensor.entry.format:
        return rows
    importance = None if tensor.importance is None else tensor.importance[matrix]
    return FORMATS[tensor.entry.format].encode(FORMATS[stored].decode(rows), importance)
