"""`hostelry bench --score` of the demo model: perplexity as stored, and in each of the twelve formats.

python -m benchmarks.perplexity

The text is answers of the kind that the model was trained to give, drawn with another seed. Questions are left out:
they are shuffled on purpose and cannot be predicted. Without its question an answer is a surprise too, so the
numbers are high; only their differences count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from backends.weights.formats import FORMATS
from benchmarks.record import NoBars, Numbers, write_result
from tools.demo_model.corpus import Corpus
from tools.demo_model.facts import load_facts

SEED, CONVERSATIONS = 20_261, 120
_END = "<|im_end|>"


def main() -> None:
    quantized = [name for name, form in FORMATS.items() if form.block_size > 1]
    with tempfile.TemporaryDirectory() as directory:
        text = Path(directory) / "answers.txt"
        text.write_text(_text(), encoding="utf-8")
        command = [sys.executable, "-m", "gateway.cli", "bench", "--score", str(text), "--json"]
        done = subprocess.run([*command, "--formats", ",".join(quantized)], stdout=subprocess.PIPE, check=True)
    numbers = json.loads(done.stdout)
    write_result("perplexity", numbers, bars=bars(numbers), command="python -m benchmarks.perplexity")


def bars(numbers: Numbers) -> NoBars:
    """None for any numbers."""
    del numbers
    return NoBars("it shows how formats differ on one text; their errors have bars in `benchmarks.formats`")


def _text() -> str:
    conversations = islice(Corpus(load_facts(), SEED).conversations(), CONVERSATIONS)
    answers = (segment.text for segments in conversations for segment in segments if segment.text.endswith(_END))
    return "\n".join(answer.removesuffix(_END) for answer in answers)


if __name__ == "__main__":
    main()
