"""Errors of a check when a runner breaks the contract, and comparisons of numbers and errors."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from backends.api import F32


class ConformanceError(Exception):
    """Raised when a runner breaks the contract. The message has what was expected, what was found, and the sentence."""

    def __init__(self, *, expected: str, found: str, contract: str) -> None:
        super().__init__(f"expected {expected}; found {found}. The contract: “{contract}”")


class CheckSkipped(Exception):
    """Raised when a check does not apply to this runner; the message is the reason."""


class Tolerances(msgspec.Struct, frozen=True, kw_only=True):
    """Relative errors (Euclidean norm, per row of logits) that the kit accepts. All are for models of few layers."""

    logits: float = 1e-4
    """Float weights against the oracle. Raise it for a runner that computes or keeps KV in less than float32."""
    company: float = 1e-5
    """Tolerance for a sequence alone and in a batch; products of other shapes round differently."""
    exact: float = 1e-3
    """Quantized weights, a runner made with `exact=True`."""
    quantized: float = 4e-2
    """Quantized weights otherwise. Activations rounded to int8 in groups of 32, as llama.cpp does, give rows up to
    3e-2 in the kit's model (1.6e-2 on average); a wrong scale, bit or minimum gives more than 1e-1."""


def expect(condition: bool, *, expected: str, found: object, contract: str) -> None:
    """Raise `ConformanceError` unless `condition` holds."""
    if not condition:
        raise ConformanceError(expected=expected, found=str(found), contract=contract)


def expect_error(kind: type[Exception], call: Callable[[], object], *, when: str, contract: str) -> Exception:
    """Call it and return the error, which has to be of `kind`."""
    try:
        call()
    except kind as error:
        return error
    except Exception as error:  # whatever a third-party runner raises is a finding
        found = f"{type(error).__name__}: {error}"
        raise ConformanceError(expected=f"{kind.__name__} for {when}", found=found, contract=contract) from error
    raise ConformanceError(expected=f"{kind.__name__} for {when}", found="no error", contract=contract)


def expect_quiet(call: Callable[[], object], *, when: str, contract: str) -> None:
    """Call it; nothing may be raised."""
    try:
        call()
    except Exception as error:  # whatever comes out of it is a finding
        found = f"{type(error).__name__}: {error}"
        raise ConformanceError(expected=f"nothing raised by {when}", found=found, contract=contract) from error


def expect_rows(found: F32, expected: F32, tolerance: float, *, what: str, contract: str) -> None:
    """Compare `[R, vocab]` logits with the expected ones, row by row: shape, type, finite, relative error."""
    expect(
        isinstance(found, np.ndarray) and found.dtype == np.float32 and found.shape == expected.shape,
        expected=f"float32 {list(expected.shape)} logits of {what}",
        found=_kind_of(found),
        contract=contract,
    )
    if not found.size:
        return
    errors = _relative_errors(found, expected)
    worst = int(errors.argmax())
    expect(
        bool(errors[worst] <= tolerance),
        expected=f"logits of {what} within {tolerance:.0e} of the reference",
        found=f"a relative error of {errors[worst]:.2g} in row {worst} of {len(found)}",
        contract=contract,
    )


def _kind_of(found: object) -> str:
    return f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__


def _relative_errors(found: F32, expected: F32) -> F32:
    """float32 `[R]`; infinite where a row is not finite."""
    is_finite = np.isfinite(found)
    differences = np.where(is_finite, found, 0) - expected
    errors = np.linalg.norm(differences, axis=1) / np.linalg.norm(expected, axis=1)
    measured: F32 = np.where(is_finite.all(axis=1), errors, np.inf).astype(np.float32)
    return measured
