"""The attention kernel against NumPy: ragged steps, types of keys and values, windows, caps, levels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from backends.kernels.attention import KV_TYPES, Cache, Ragged, attend, make_cache
from backends.kernels.library import LEVELS, Library
from backends.kv import BLOCK_TOKENS, KVDtype

F32 = npt.NDArray[np.float32]
CONTEXT = 400
ERRORS: dict[KVDtype, float] = {"f32": 2e-6, "f16": 1e-3, "int8": 1.5e-2}
"""Largest error relative to values of size 1."""


class Shape:
    """Heads of a model, and random keys, values and queries of a few whole sequences."""

    def __init__(self, lengths: list[int], *, heads: int = 6, kv_heads: int = 2, head_dim: int = 48) -> None:
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        random = np.random.default_rng(heads + head_dim)
        width = (heads + 2 * kv_heads) * head_dim
        self.rows = [random.standard_normal((length, width), dtype=np.float32) for length in lengths]
        angles = np.arange(CONTEXT)[:, None] / 100 ** (np.arange(head_dim // 2) / (head_dim // 2))
        self.rotary = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.each = -(-CONTEXT // BLOCK_TOKENS)
        # Blocks of the sequences lie between each other's, as in a pool that is long in use.
        self.blocks = random.permutation(len(lengths) * self.each).reshape(len(lengths), -1).astype(np.int32)

    def cache(self, library: Library, kv_type: KVDtype = "f32") -> Cache:
        cache = make_cache(
            library, kv_type, kv_heads=self.kv_heads, head_dim=self.head_dim, num_blocks=self.blocks.size
        )
        cache.data[:] = 0xFF  # NaN in every type but int8, whose scales are NaN then
        return cache

    def step(self, spans: list[tuple[int, int, int]]) -> tuple[F32, Ragged]:
        """Tokens `begin` to `end` of sequences, given as (sequence, begin, end)."""
        qkv = np.concatenate([self.rows[s][begin:end] for s, begin, end in spans])
        counts = [end - begin for _, begin, end in spans]
        return qkv, Ragged(
            q_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            kv_len=np.array([end for _, _, end in spans], np.int32),
            blocks=self.blocks[[s for s, _, _ in spans]],
        )

    def reference(self, sequence: int, *, scale: float, window: int = 0, softcap: float = 0.0) -> F32:
        """float64 inside, a whole sequence at once."""
        rows, dim = self.rows[sequence], self.head_dim
        x = rows.reshape(len(rows), -1, dim).astype(np.float64)
        cosine, sine = (table[: len(rows), None].astype(np.float64) for table in self.rotary)
        first, second = x[..., : dim // 2], x[..., dim // 2 :]
        turned = np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
        group = self.heads // self.kv_heads
        q = turned[:, : self.heads]
        k = np.repeat(turned[:, self.heads : self.heads + self.kv_heads], group, axis=1)
        v = np.repeat(x[:, self.heads + self.kv_heads :], group, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) * scale
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        distance = np.arange(len(rows))[:, None] - np.arange(len(rows))[None]
        scores[:, (distance < 0) | ((distance >= window) if window else False)] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attended: F32 = np.einsum("hqk,khd->qhd", weights, v).reshape(len(rows), -1).astype(np.float32)
        return attended


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(6, 2, 48), (4, 4, 16), (7, 1, 64), (40, 1, 128), (8, 4, 256)]
)
def test_whole_prompts(library: Library, kv_type: KVDtype, heads: int, kv_heads: int, head_dim: int) -> None:
    """Several sequences at once, of lengths around blocks, chunks and tasks."""
    lengths = [1, 15, 16, 17, 127, 129, 300]
    shape = Shape(lengths, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    scale = head_dim**-0.5
    qkv, step = shape.step([(s, 0, length) for s, length in enumerate(lengths)])

    out = attend(shape.cache(library, kv_type), qkv, step, rotary=shape.rotary, scale=scale, threads=2)

    expected = np.concatenate([shape.reference(s, scale=scale) for s in range(len(lengths))])
    assert np.abs(out - expected).max() < ERRORS[kv_type] * 4


@pytest.mark.parametrize(("window", "softcap"), [(5, 0.0), (128, 0.0), (0, 3.0), (33, 2.0)])
def test_windows_and_caps(library: Library, window: int, softcap: float) -> None:
    """Windows and caps work as in Mistral and Gemma."""
    shape = Shape([270])
    qkv, step = shape.step([(0, 0, 270)])

    out = attend(
        shape.cache(library), qkv, step, rotary=shape.rotary, scale=0.3, window=window, softcap=softcap, threads=2
    )

    assert np.abs(out - shape.reference(0, scale=0.3, window=window, softcap=softcap)).max() < 4e-6


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_cuts_company_and_threads_change_nothing(library: Library, kv_type: KVDtype) -> None:
    """A prompt in pieces, in a batch with others, or on more threads gives the same bits."""
    shape = Shape([260, 140])

    def run(cache: Cache, spans: list[tuple[int, int, int]], threads: int) -> F32:
        return attend(cache, *shape.step(spans), rotary=shape.rotary, scale=0.15, threads=threads)

    whole = run(shape.cache(library, kv_type), [(0, 0, 260)], 1)
    cache = shape.cache(library, kv_type)
    first = run(cache, [(1, 0, 9), (0, 0, 77)], 2)[9:]
    second = run(cache, [(0, 77, 78), (1, 9, 140)], 3)[:1]
    third = run(cache, [(0, 78, 260)], 1)

    assert np.array_equal(np.concatenate([first, second, third]), whole)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_levels_agree(library: Library, kv_type: KVDtype) -> None:
    """Bit for bit with the scalar one."""
    shape = Shape([150, 31], head_dim=80)
    spans = [(0, 0, 150), (1, 0, 31)]
    best, found = library.level, {}
    for name in LEVELS:
        if library.set_level(name):
            cache = shape.cache(library, kv_type)
            out = attend(cache, *shape.step(spans), rotary=shape.rotary, scale=0.1, window=140, softcap=5.0)
            found[name] = out.tobytes() + cache.data.tobytes()
    library.set_level(best)

    assert len(set(found.values())) == 1
    assert len(found) >= 2 or best == "scalar"


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize(("head", "value"), [(6, np.nan), (8, np.nan), (8, np.inf)])
def test_what_is_not_finite_shows(library: Library, kv_type: KVDtype, head: int, value: float) -> None:
    """A key or value that is not finite shows in the rows that see it, never as an invented number, and in no other
    sequence.
    """
    shape = Shape([40, 40])
    shape.rows[0][20, head * shape.head_dim] = value
    qkv, step = shape.step([(0, 0, 40), (1, 0, 40)])

    out = attend(shape.cache(library, kv_type), qkv, step, rotary=shape.rotary, scale=0.1)

    queries = out.reshape(80, shape.heads, shape.head_dim)[:, :3]
    assert (~np.isfinite(queries[20:40, :, 0])).all()
    assert np.isfinite(queries[40:]).all()


def test_halves_are_rounded_to_nearest(library: Library) -> None:
    """Every value of float16, the middle between adjacent ones, and values that are too large round to the nearest."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    usable = np.unique(halves[np.isfinite(halves)].astype(np.float32))
    middles = (usable[1:] + usable[:-1]) / 2
    values = np.concatenate([usable, middles, [65519.0, 65520.0, -1e30, 1e-10, np.inf]]).astype(np.float32)
    values = np.pad(values, (0, -len(values) % 16)).reshape(-1, 16)
    values = np.pad(values, ((0, -len(values) % BLOCK_TOKENS), (0, 0)))
    sequences = len(values) // BLOCK_TOKENS
    cache = make_cache(library, "f16", kv_heads=1, head_dim=16, num_blocks=sequences)
    qkv = np.concatenate([np.zeros((len(values), 32), np.float32), values], axis=1)
    step = Ragged(
        q_start=np.arange(sequences + 1, dtype=np.int32) * BLOCK_TOKENS,
        kv_len=np.full(sequences, BLOCK_TOKENS, np.int32),
        blocks=np.arange(sequences, dtype=np.int32)[:, None],
    )
    table = np.ones((BLOCK_TOKENS, 8), np.float32)

    attend(cache, qkv, step, rotary=(table, table), scale=1.0)

    kept = cache.data[len(cache.data) // 2 :].view(np.float16).reshape(values.shape)
    with np.errstate(over="ignore"):
        assert np.array_equal(kept, values.astype(np.float16))
