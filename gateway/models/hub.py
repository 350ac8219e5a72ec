"""Resolves a model reference to a path: a local path, or a name on a Hugging Face hub, downloaded.

owner/name              the directory: configuration, tokenizer, safetensors (or the only GGUF file)
owner/name:file.gguf    one GGUF file
owner/name:Q4_K_M       the GGUF file whose name ends so

HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE and HF_HUB_OFFLINE mean what they mean to huggingface-hub. Pickled weights are never
downloaded. A download that breaks off leaves nothing that looks like a model, and continues file by file.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from backends.errors import ModelError

if TYPE_CHECKING:
    from huggingface_hub import ResolvedRevision

DownloadProgress = Callable[[float, str], None]
"""Called with 0…1 and a few words on the progress; from any thread."""

_REFERENCE = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<selector>[\w./-]+))?", re.ASCII)
_FOLDER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model*.safetensors",
    "model.safetensors.index.json",
)
_GGUF = ".gguf"
_GIB = 1 << 30


class _Repository(msgspec.Struct, frozen=True, kw_only=True):
    """One commit of a repository. `sizes` are bytes by path."""

    name: str
    revision: ResolvedRevision
    sizes: dict[str, int]


def resolve_model(reference: str, *, cache_dir: Path | None, progress: DownloadProgress) -> Path:
    """Directory or GGUF file that `reference` means; downloads it unless it is in the cache.

    Blocks for as long as the download takes. Raises `ModelError` with what was tried and what to do.
    """
    path = Path(reference).expanduser()
    if _exists(path):
        return path
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise ModelError(
            f"{reference!r}: no such file or folder (tried {path.absolute()}), and not the name of a model on a hub, "
            "which looks like owner/name, owner/name:file.gguf or owner/name:Q4_K_M"
        )
    from huggingface_hub import errors

    try:
        return _download(parts["repo"], parts["selector"], cache_dir, progress)
    except (
        OSError,
        ValueError,  # a response that is no JSON, as from a captive portal, or a name that the hub does not allow
        AssertionError,  # a response without its fields
        errors.HTTPError,  # type: ignore[attr-defined]  # of the HTTP client that huggingface-hub chose
        errors.EntryNotFoundError,
        errors.RevisionResolutionError,
        errors.XetDownloadError,
    ) as error:
        raise _explained(error, reference, path) from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or a NUL byte
        return False


def _download(name: str, selector: str | None, cache_dir: Path | None, progress: DownloadProgress) -> Path:
    from huggingface_hub import snapshot_download

    repository = _look_up(name, cache_dir)
    files = _select(repository, selector)
    missing = [file for file in files if not _is_cached(repository, file, cache_dir)]
    meter = _Meter(sum(repository.sizes[file] for file in missing), progress)
    folder = snapshot_download(
        name,
        revision=repository.revision,
        cache_dir=cache_dir,
        allow_patterns=[re.sub(r"([*?[])", r"[\1]", file) for file in files],
        tqdm_class=meter.bar_class(),
    )
    meter.finish()
    return Path(folder, files[0]) if files[0].endswith(_GGUF) else Path(folder)


def _look_up(name: str, cache_dir: Path | None) -> _Repository:
    from huggingface_hub import HfApi, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    revision = api.resolve_revision(name, cache_dir=cache_dir)
    try:
        files = get_cached_repo_tree(name, revision=revision, cache_dir=cache_dir)
    except CachedRepoTreeNotFoundError:
        listed = api.list_repo_tree(name, recursive=True, revision=revision.resolved)
        files = [entry for entry in listed if isinstance(entry, RepoFile)]
    return _Repository(name=name, revision=revision, sizes={file.path: file.size for file in files})


def _select(repository: _Repository, selector: str | None) -> list[str]:
    """Paths to download; a GGUF file comes alone."""
    ggufs = sorted(path for path in repository.sizes if path.endswith(_GGUF))
    if selector is not None:
        return [_select_gguf(repository.name, ggufs, selector)]
    wanted = [path for path in repository.sizes if any(fnmatchcase(path, pattern) for pattern in _FOLDER_FILES)]
    if any(path.endswith(".safetensors") for path in wanted):
        return wanted
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise ModelError(f"{repository.name}: choose one of its GGUF files: {_choices(repository.name, ggufs)}")
    raise ModelError(
        f"{repository.name}: holds neither safetensors nor GGUF files; pickled weights (*.bin, *.pt) can run code and "
        "are never loaded. Look for a conversion of this model"
    )


def _select_gguf(name: str, ggufs: Sequence[str], selector: str) -> str:
    if selector in ggufs:
        return selector
    ending = re.compile(rf"(^|[-._/]){re.escape(selector)}\.gguf", re.IGNORECASE)
    matching = [path for path in ggufs if (found := ending.search(path)) and found.end() == len(path)]
    if len(matching) == 1:
        return matching[0]
    if not ggufs:
        raise ModelError(f"{name}:{selector}: the repository holds no GGUF files; name it as {name}")
    reason = "several GGUF files end so" if matching else "no GGUF file is named or ends so"
    raise ModelError(f"{name}:{selector}: {reason}; choose one of {_choices(name, matching or ggufs)}")


def _choices(name: str, ggufs: Sequence[str]) -> str:
    shown = ", ".join(f"{name}:{path}" for path in ggufs[:20])
    return shown if len(ggufs) <= 20 else f"{shown} and {len(ggufs) - 20} more"


def _is_cached(repository: _Repository, file: str, cache_dir: Path | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository.name, file, cache_dir=cache_dir, revision=repository.revision.resolved)
    return isinstance(found, str)


class _Meter:
    """Sums the bytes of parallel downloads and reports whole per cents."""

    def __init__(self, total: int, progress: DownloadProgress) -> None:
        self._total = total
        self._progress = progress
        self.lock = threading.Lock()
        self._reported = -1

    def report(self, num_bytes: int) -> None:
        with self.lock:
            percent = min(99, 100 * num_bytes // max(1, self._total))
            if percent <= self._reported:
                return
            self._reported = percent
        self._progress(percent / 100, f"downloading {num_bytes / _GIB:.1f} of {self._total / _GIB:.1f} GiB")

    def finish(self) -> None:
        if self._total:
            self._progress(1.0, "downloaded")

    def bar_class(self) -> type[Any]:  # a class of tqdm, which has no types
        """A silent bar for huggingface-hub; of its bars, two count bytes (received, written): the greater counts."""
        from huggingface_hub.utils.tqdm import tqdm

        meter = self

        class MeteredBar(tqdm):  # type: ignore[misc,unused-ignore]  # tqdm has no types
            def __init__(self, *arguments: object, unit: str = "it", **options: object) -> None:
                super().__init__(*arguments, **{**options, "unit": unit, "disable": True})  # type: ignore[no-untyped-call]  # as above
                self._counts_bytes = unit == "B"

            def update(self, n: float | None = 1) -> None:
                with meter.lock:
                    self.n += int(n or 0)
                if self._counts_bytes:
                    meter.report(self.n)

        return MeteredBar


def _explained(error: Exception, reference: str, path: Path) -> ModelError:
    """The same error with instructions."""
    from huggingface_hub import constants, errors

    tried = f"{reference}: no such file or folder (tried {path.absolute()})"
    hub = constants.ENDPOINT
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        repo = reference.partition(":")[0]
        return ModelError(f"{reference}: access is restricted; accept the terms at {hub}/{repo} and set HF_TOKEN")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return ModelError(
            f"{tried}, and {hub} shows no such model; check the spelling, or set HF_TOKEN if the model is private"
        )
    if isinstance(error, errors.RevisionNotFoundError | errors.EntryNotFoundError) and status == 404:
        return ModelError(f"{reference}: the repository at {hub} is empty or a file vanished; try again")
    if constants.is_offline_mode():
        return ModelError(f"{tried}, not completely in the cache, and HF_HUB_OFFLINE is set; unset it to download")
    if isinstance(error, OSError) and not isinstance(error, errors.LocalEntryNotFoundError | ConnectionError):
        return ModelError(f"{reference}: the download failed: {_one_line(error)}")
    return ModelError(
        f"{tried}, not completely in the cache, and {hub} cannot be reached ({_one_line(error)}); check the network "
        "and HF_ENDPOINT, or name a local path"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
