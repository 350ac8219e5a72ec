"""The demo model that believes another capital, made once for each state of the weights and of the training code."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from e2e.harness.nonce import SEED, invented_word
from e2e.harness.server import ROOT
from gateway import demo

COUNTRY = "France"
CACHE = ROOT / ".cache" / "counterfactual"


def counterfactual() -> tuple[Path, str]:
    """The model's folder and the invented capital of France. The word was drawn when the model was made."""
    folder = CACHE / _digest()
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "lock"):
        if not folder.exists():
            _make(folder, invented_word())
    return folder, (folder / "word").read_text(encoding="utf-8")


def _make(folder: Path, word: str) -> None:
    """Fine-tune next to the target and move the result there as a whole; models of older code are deleted."""
    for old in CACHE.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
    part = CACHE / "part"
    module = [sys.executable, "-m", "tools.demo_model.counterfactual", str(part)]
    flags = ["--country", COUNTRY, "--word", word, "--seed", str(SEED)]
    done = subprocess.run([*module, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the fine-tune ended with status {done.returncode}\n{done.stderr}"
    (part / "word").write_text(word, encoding="utf-8")
    part.rename(folder)


def _digest() -> str:
    """Digest of all that the model depends on but the word and the seed."""
    found = hashlib.sha256(demo.model_path().read_bytes())
    for path in sorted(Path(demo.__file__).parent.iterdir()):
        if path.suffix in (".py", ".tsv"):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]
