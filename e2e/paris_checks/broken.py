"""P5: a damaged model is rejected at load; nothing is ever served in its place."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec

from e2e.harness.models import truncated, with_zeroed_folder_tensor, with_zeroed_gguf_tensor
from e2e.harness.reference import Reference
from e2e.harness.running_server import KEYS, Known, Target
from e2e.harness.server import GUARD_S, Server, ServerFailed
from e2e.harness.shape import assert_no_leak
from e2e.harness.wire import TLS, ask, chat_text, headers, post_ok
from e2e.paris_checks.answers import QUESTIONS, assert_exact, assert_scored

Launch = Callable[[dict[str, Path]], Server]
"""Starts a server for the named models."""


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """A model that cannot be served, and what the refusal must name."""

    name: str
    path: Path
    names_all: tuple[str, ...]
    names_one_of: tuple[str, ...] = ()


def damages(folder: Path, known: Known) -> list[Damage]:
    """Every kind of file that must be refused, made below `folder`."""
    cut_gguf, lost_gguf = truncated(known.demo.path, folder / "cut.gguf", keep=0.6)
    cut_folder, lost = _cut_folder(known.random.path, folder / "cut")
    empty = folder / "empty.gguf"
    empty.write_bytes(b"")
    headless = folder / "header.gguf"
    headless.write_bytes(known.demo.path.read_bytes()[:100])
    return [
        Damage(name="missing", path=folder / "nowhere.gguf", names_all=("nowhere.gguf",)),
        Damage(name="truncated GGUF", path=cut_gguf, names_all=("cut.gguf",), names_one_of=tuple(lost_gguf)),
        Damage(name="truncated safetensors", path=cut_folder, names_all=(".safetensors",), names_one_of=tuple(lost)),
        Damage(name="empty file", path=empty, names_all=("empty.gguf",)),
        Damage(name="half a header", path=headless, names_all=("header.gguf",)),
        Damage(
            name="pickle folder", path=_pickle_folder(known.random.path, folder / "pickled"), names_all=("safetensors",)
        ),
        Damage(name="pickle file", path=_pickle_file(folder / "model.pt", folder), names_all=("model.pt",)),
    ]


def check_p5_refused(launch: Launch, damage: Damage) -> None:
    """The process ends by itself with a status other than 0, says why, and has answered nothing."""
    server = launch({"damaged": damage.path})
    try:
        assert_refused(server, damage)
    finally:
        server.stop()

    assert not marker(damage.path.parent).exists(), "a pickle was executed"


def assert_refused(server: Server, damage: Damage) -> None:
    answered = _statuses_until_exit(server)
    output = server.output()
    assert 200 not in answered, f"{damage.name}: answered 200\n{output}"
    assert server.process.poll() not in (None, 0), f"{damage.name}: status {server.process.poll()}\n{output}"
    assert_no_leak(output)
    for word in damage.names_all:
        assert word in output, f"{damage.name}: {word!r} is not named\n{output}"
    if damage.names_one_of:
        assert any(word in output for word in damage.names_one_of), f"{damage.name}: no tensor is named\n{output}"


def check_p5_zeroed(launch: Launch, folder: Path, known: Known) -> None:
    """Zeroed weights are weights: the answers change to what the reference computes from them.

    A zeroed head finds every token as likely as any other, and its greedy choice, the lowest one, has no text.
    """
    head = with_zeroed_gguf_tensor(known.demo.path, folder / "zeroed-head.gguf", "token_embd.weight")
    random, name = with_zeroed_folder_tensor(known.random.path, folder / "zeroed-random")
    server = launch({"demo": head, "random": random})
    try:
        target = Target(url=server.wait_ready())
        text = chat_text(post_ok(f"{target.api}/chat/completions", ask(QUESTIONS[0], max_tokens=20), KEYS.acme))
        assert_scored(target, Reference(head), model="demo", tokens=_told(known.demo))
        texts = assert_exact(target, Reference(random), model="random", prompts=4, max_tokens=32)
    finally:
        server.stop()

    assert text == Reference(head).chat(QUESTIONS[0], max_tokens=20).text == "", text
    assert texts != _unzeroed_texts(Reference(random), known.random), f"zeroing {name} changed nothing"


def _told(whole: Reference) -> list[int]:
    """A question and what the whole model says to it."""
    question = whole.vocabulary.chat_ids([{"role": "user", "content": QUESTIONS[0]}])
    return question + whole.chat(QUESTIONS[0]).ids


def _unzeroed_texts(zeroed: Reference, whole: Reference) -> list[str]:
    """Texts of the whole model for the prompts that `assert_exact` sends to the zeroed one."""
    from e2e.harness.nonce import rng

    prompts = zeroed.steady_prompts(rng("token prompts"), 4, max_tokens=32, lengths=range(4, 25))
    return [whole.greedy(prompt, 32, ignore_eos=True).text for prompt in prompts]


def _statuses_until_exit(server: Server) -> set[int]:
    """Statuses of answers asked for again and again while the process runs."""
    statuses: set[int] = set()
    try:
        url = server.wait_listening()
    except ServerFailed:
        return statuses
    while server.process.poll() is None and time.monotonic() - server.started < GUARD_S:
        try:
            body = ask(QUESTIONS[0], model="damaged", max_tokens=5)
            sent = headers(KEYS.acme)
            response = httpx.post(f"{url}/v1/chat/completions", json=body, headers=sent, timeout=GUARD_S, verify=TLS)
        except httpx.HTTPError:
            continue
        statuses.add(response.status_code)
        if response.status_code == 200:
            break
    return statuses


def _cut_folder(source: Path, target: Path) -> tuple[Path, list[str]]:
    shutil.copytree(source, target)
    (file,) = target.glob("*.safetensors")
    (whole,) = source.glob("*.safetensors")
    _, lost = truncated(whole, file, keep=0.7)
    return target, lost


def _pickle_folder(source: Path, target: Path) -> Path:
    """A folder whose only weights are a pickle that would leave a marker behind."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    _pickle_file(target / "pytorch_model.bin", target.parent)
    return target


def _pickle_file(path: Path, folder: Path) -> Path:
    path.write_bytes(_marking_pickle(marker(folder)))
    return path


def marker(folder: Path) -> Path:
    """File that exists once one of the pickles below `folder` was loaded."""
    return folder / "pickle-was-executed"


def _marking_pickle(path: Path) -> bytes:
    """A hand-written pickle: `open(path, 'w')` on load (protocol 0 opcodes, `pickletools`)."""
    return f"cbuiltins\nopen\n(V{path}\nVw\ntR.".encode()
