"""What the tokenizers library raises on a vocabulary that it cannot use, as a `ModelError`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from backends.errors import BackendError, ModelError


@contextmanager
def vocabulary_faults(where: str) -> Generator[None]:
    """Turn every fault of the block into a `ModelError` that begins with `where`.

    The library raises bare `Exception`, and where it is less careful its Rust code panics, which is no `Exception`.
    """
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        raise ModelError(f"{where}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the class cannot be imported
            raise
        raise ModelError(f"{where}: the tokenizers library fails on this vocabulary: {error}") from error
