"""LoRA from outside: adapters made at run time, declared by the operator, many of them in one batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from backends.registry import create_runner
from backends.testing.models import write_gguf_of
from e2e.harness.adapters import ATTENTION, Recipe, adapted, make_adapter
from e2e.harness.counters import Counters
from e2e.harness.models import random_gguf, random_model
from e2e.harness.nonce import rng
from e2e.harness.reference import Reference
from e2e.harness.running_server import KEYS, Target, tenants_toml
from e2e.harness.server import Server
from e2e.harness.shape import assert_error
from e2e.harness.wire import Json, ask, get, post, post_ok, stream

RECIPES = {
    "a": Recipe(rank=4, alpha=4, modules=ATTENTION),
    "b": Recipe(rank=8, alpha=20),
    "c": Recipe(rank=16, alpha=6, rslora=True),
    "z": Recipe(rank=8, alpha=16, fill="zero"),
}
DIFFERENT = ("a", "b", "c")
CROWD = tuple(f"n{number}" for number in range(10))
"""More than the engine has slots for."""
LAWYER = "sk-ho-lawyer-0a1b2c3d4e5f6a7b"
PROMPTS, TOKENS = 16, 64


class RunningServer(msgspec.Struct, frozen=True):
    """A server with the adapters, and what each must answer. `of` knows the base by ""."""

    target: Target
    of: dict[str, Reference]
    crowd: dict[str, Reference]
    quantized: Reference
    quantized_with_b: Reference


@pytest.fixture(scope="module")
def capable(runner: str) -> str:
    """A runner that applies adapters here, by what it declares."""
    if not create_runner(runner).capabilities().lora_slots:
        pytest.skip(f"runner {runner} declares no LoRA slots on this machine")
    return runner


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("lora") / "random")


@pytest.fixture(scope="module")
def folders(base: Path) -> dict[str, Path]:
    """PEFT directories next to the model."""
    model = Reference(base).model
    recipes = RECIPES | dict.fromkeys(CROWD, Recipe(rank=2, alpha=3, modules=ATTENTION))
    return {
        name: make_adapter(base.parent / "adapters" / name, recipe, base=model, seed=seed)
        for seed, (name, recipe) in enumerate(recipes.items())
    }


@pytest.fixture(scope="module")
def running_server(
    capable: str, base: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Server where `a` belongs to acme, `c` comes by a flag, all may use the others; two more files of one base."""
    folder = tmp_path_factory.mktemp(f"lora-{capable}")
    full = random_gguf(base, folder / "full.gguf")
    quantized = write_gguf_of(base, folder / "q8.gguf", "Q8_0")
    config = tenants_toml() + f'[[tenants]]\nname = "lawyer"\nkeys = ["{LAWYER}"]\ndefault_adapter = "b"\n'
    declared = {("random", "a"): 'tenants = ["acme"]', ("gguf", "b"): "", ("q8", "b"): ""}
    declared |= {("random", name): "" for name in ("b", "z", *CROWD)}
    for (of, name), more in declared.items():
        relative = os.path.relpath(folders[name], folder)
        config += f'[[adapters]]\nname = "{name}"\nbase = "{of}"\npath = "{relative}"\n{more}\n'
    (folder / "hostelry.toml").write_text(config)
    flags = ["--config", str(folder / "hostelry.toml"), "--port", "0", "--data-dir", str(folder / "data")]
    for name, path in {"random": base, "gguf": full, "q8": quantized}.items():
        flags += ["--model", f"{name}={path}"]
    server = Server([*flags, "--backend", capable, "--adapter", f"random:c={folders['c']}"])
    try:
        yield RunningServer(
            target=Target(url=server.wait_ready(120)),
            of={"": Reference(base)} | {name: adapted(base, folders[name]) for name in RECIPES},
            crowd={name: adapted(base, folders[name]) for name in CROWD},
            quantized=adapted(base, None, weights=quantized),
            quantized_with_b=adapted(base, folders["b"], weights=quantized),
        )
    finally:
        stopped = server.stop()
    assert stopped.status == 0, server.log()


def body(model: str, prompt: list[int], **extra: object) -> Json:
    return {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True} | extra


def complete(
    running_server: RunningServer, model: str, prompt: list[int], *, key: str = KEYS.acme, **extra: object
) -> str:
    answer = post_ok(f"{running_server.target.api}/completions", body(model, prompt, **extra), key)
    assert answer["model"] == ("random:b" if key == LAWYER else model)
    text = answer["choices"][0]["text"]
    assert isinstance(text, str)
    return text


def model_of(name: str) -> str:
    return f"random:{name}" if name else "random"


def prompts_for(reference: Reference, name: str, count: int = PROMPTS, tokens: int = TOKENS) -> list[list[int]]:
    return reference.steady_prompts(rng(f"lora {name}"), count, max_tokens=tokens, lengths=range(1, 60))


def expected(reference: Reference, prompt: list[int], tokens: int = TOKENS) -> str:
    return reference.greedy(prompt, tokens, ignore_eos=True).text


@pytest.mark.parametrize("name", DIFFERENT)
def test_an_adapter_is_its_merged_weights(running_server: RunningServer, name: str) -> None:
    """L3, L4: all answers are those of W + scale B A, and none is the base's."""
    prompts = prompts_for(running_server.of[name], name)

    said = [complete(running_server, model_of(name), prompt) for prompt in prompts]

    assert said == [expected(running_server.of[name], prompt) for prompt in prompts]
    alone = [complete(running_server, "random", prompt) for prompt in prompts]
    assert not [pair for pair in zip(said, alone, strict=True) if pair[0] == pair[1]]


def test_an_adapter_of_zeros_is_the_base(running_server: RunningServer) -> None:
    """L5: byte for byte, log-probabilities too."""
    prompts = prompts_for(running_server.of[""], "zero", 8)

    pairs = [
        [
            post_ok(f"{running_server.target.api}/completions", body(model, prompt, logprobs=3), KEYS.acme)["choices"]
            for model in ("random", "random:z")
        ]
        for prompt in prompts
    ]

    assert all(zero == base for base, zero in pairs)


def test_company_of_other_adapters_changes_nothing(running_server: RunningServer) -> None:
    """L6: 16 at once, four each of the base, A, B and C, in shared steps: each says what it says alone."""
    names = ("", *DIFFERENT)
    asked = [(name, prompt) for name in names for prompt in prompts_for(running_server.of[name], f"crowd {name}", 4)]
    rng("lora order").shuffle(asked)
    alone = [complete(running_server, model_of(name), prompt) for name, prompt in asked]
    before = engine(running_server)

    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda each: complete(running_server, model_of(each[0]), each[1]), asked))

    spent = {name: value - before[name] for name, value in engine(running_server).items()}
    assert together == alone == [expected(running_server.of[name], prompt) for name, prompt in asked]
    assert spent["batched_sequences"] / spent["steps"] > 8, spent


def engine(running_server: RunningServer) -> dict[str, float]:
    counters = Counters(running_server.target.url)
    names = ("steps", "batched_sequences", "adapter_hits", "adapter_loads")
    return {name: counters.total(f"hostelry_engine_{name}_total", model="random") for name in names}


def test_others_do_not_see_it(running_server: RunningServer) -> None:
    """L7: 404 that reads like an adapter that is not there; their own answers stay what they are, meanwhile too."""
    (prompt,) = prompts_for(running_server.of[""], "others", 1)
    own = expected(running_server.of[""], prompt)
    before = complete(running_server, "random", prompt, key=KEYS.globex)

    with ThreadPoolExecutor(9) as pool:
        running = [pool.submit(complete, running_server, "random:a", prompt) for _ in range(4)]
        during = [pool.submit(complete, running_server, "random", prompt, key=KEYS.globex) for _ in range(4)]
        refused = post(f"{running_server.target.api}/completions", body("random:a", prompt), KEYS.globex)
        absent = post(f"{running_server.target.api}/completions", body("random:x", prompt), KEYS.globex)

    assert_error(refused, 404, code="model_not_found")
    assert refused.json()["error"]["message"].replace("'a'", "'x'") == absent.json()["error"]["message"]
    assert {each.result() for each in running} == {expected(running_server.of["a"], prompt)}
    assert {
        before,
        complete(running_server, "random", prompt, key=KEYS.globex),
        *(each.result() for each in during),
    } == {own}


def test_a_shared_beginning_is_not_shared_between_adapters(running_server: RunningServer) -> None:
    """Keys and values of one adapter are wrong for another: what was computed with A is never used for B."""
    prompts = prompts_for(running_server.of["b"], "prefix", 4)
    long = [(prompt * 60)[:200] for prompt in prompts]

    said = [
        complete(running_server, model_of(name), prompt, max_tokens=8) for name in ("a", "b", "") for prompt in long
    ]

    references = [
        running_server.of[name].greedy(prompt, 8, ignore_eos=True) for name in ("a", "b", "") for prompt in long
    ]
    assert [text for text, known in zip(said, references, strict=True) if known.min_gap > 1e-4] == [
        known.text for known in references if known.min_gap > 1e-4
    ]


def test_listed_for_those_who_may(running_server: RunningServer) -> None:
    """L1: with its base as the parent, and for its tenant alone."""
    listed = {
        key: {
            model["id"]: model.get("parent") for model in get(f"{running_server.target.api}/models", key).json()["data"]
        }
        for key in (KEYS.acme, KEYS.globex, KEYS.narrow)
    }

    assert listed[KEYS.acme]["random:a"] == listed[KEYS.acme]["random:c"] == "random"
    assert listed[KEYS.acme]["random"] is None
    assert listed[KEYS.acme].keys() - listed[KEYS.globex].keys() == {"random:a"}
    assert not [name for name in listed[KEYS.narrow] if name.startswith(("gguf", "q8"))]


def test_default_adapter(running_server: RunningServer) -> None:
    """L2: who names the model alone gets the tenant's own; a model without it is 404, never the model alone."""
    (prompt,) = prompts_for(running_server.of["b"], "default", 1)

    said = complete(running_server, "random", prompt, key=LAWYER)
    streamed = stream(f"{running_server.target.api}/chat/completions", ask("hi", model="random", max_tokens=4), LAWYER)

    assert said == expected(running_server.of["b"], prompt)
    assert {chunk["model"] for chunk in streamed.chunks} == {"random:b"}


def test_more_adapters_than_slots(running_server: RunningServer) -> None:
    """L10: all at once, twice, each with its own answer; each is found in its slot or brought there."""
    (prompt,) = prompts_for(running_server.of[""], "slots", 1, 16)
    known = {name: reference.greedy(prompt, 16, ignore_eos=True) for name, reference in running_server.crowd.items()}
    steady = [name for name, answer in known.items() if answer.min_gap > 1e-4]

    before = engine(running_server)

    with ThreadPoolExecutor(2 * len(CROWD)) as pool:
        said = list(
            pool.map(lambda name: complete(running_server, model_of(name), prompt, max_tokens=16), (*steady, *steady))
        )

    assert len(steady) > 8
    assert said == [known[name].text for name in (*steady, *steady)]
    assert len(set(said)) == len(steady)
    spent = {name: value - before[name] for name, value in engine(running_server).items()}
    assert spent["adapter_loads"] >= len(steady) - 8
    assert spent["adapter_hits"] + spent["adapter_loads"] >= 2 * len(steady)


def test_a_base_from_gguf(running_server: RunningServer) -> None:
    """Query and key rows lie in another order in the file; the adapter fits as it is."""
    prompts = prompts_for(running_server.of["b"], "gguf", 4)

    said = [complete(running_server, "gguf:b", prompt) for prompt in prompts]

    assert said == [expected(running_server.of["b"], prompt) for prompt in prompts]


def test_a_quantized_base(running_server: RunningServer) -> None:
    """L11: the dequantized blocks with the adapter, as near as activations of eight bits come, and far from without."""
    tokens = rng("lora q8").sample(range(100, 500), 60)
    scored = body("q8:b", tokens, max_tokens=0, echo=True, logprobs=0)

    answer = post_ok(f"{running_server.target.api}/completions", scored, KEYS.acme)

    found = np.array(answer["choices"][0]["logprobs"]["token_logprobs"][1:])
    with_b = np.abs(found - running_server.quantized_with_b.logprobs(tokens)).mean()
    without = np.abs(found - running_server.quantized.logprobs(tokens)).mean()
    assert with_b < 0.05 * without, (with_b, without)


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--exact"], 1, "does not support LoRA adapters"),
        (["--adapter", "other:b={b}"], 2, "base other is not served here"),
        (["--adapter", "random:gone={b}-gone"], 2, "gone is not a directory"),
        (["--adapter", "random:model={base}"], 1, "adapter_config.json is missing; this is a model"),
        (["--adapter", "b={b}"], 2, "write BASE:NAME=PATH"),
    ],
)
def test_a_start_that_cannot_serve_them_ends(
    capable: str, base: Path, folders: dict[str, Path], tmp_path: Path, more: list[str], status: int, message: str
) -> None:
    """L9: with the reason; never a server that answers without."""
    flags = [text.format(b=folders["b"], base=base) for text in more]
    arguments = ["--port", "0", "--data-dir", str(tmp_path), "--backend", capable, "--model", f"random={base}"]
    server = Server([*arguments, "--adapter", f"random:b={folders['b']}", *flags])
    try:
        assert server.wait_exit(60) == status
    finally:
        server.stop()

    assert message in " ".join(server.log().split())
