"""Makes an engine a `Backend`: text in, events out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from backends.api import BackendCapabilities, Health
from backends.errors import BackendError, ModelError, Overloaded
from backends.generation import (
    ChatPrompt,
    Done,
    Event,
    GenerateRequest,
    Prompt,
    Started,
    TextPrompt,
    TokenPrompt,
    Usage,
)
from backends.text.load import ModelText, load_text
from backends.text.prompts import Prompts
from backends.text.tokenizer import Detokenizer
from gateway.batching.messages import Add, EngineStats
from gateway.engine.client_side.admission_control import AdmissionControl, AdmissionTicket
from gateway.engine.client_side.open_requests import OutputStream, check_request, make_add, max_new_tokens, seconds_left
from gateway.engine.client_side.output_decoder import OutputDecoder
from gateway.engine.client_side.process import start_process
from gateway.engine.client_side.step_histograms import StepHistograms
from gateway.engine.client_side.supervisor import HANG_TIMEOUT_S, StartEngine, Supervisor
from gateway.engine.config import EngineConfig
from gateway.engine.messages import Load, Ready

_log = logging.getLogger("gateway.engine")

_LARGE_PROMPT_BYTES = 8 * 1024
"""Prompts above this take more than about a millisecond to tokenize and go to a thread."""
_MOST = 0.5
"""Part of the KV memory that counts as full: a quarter may be reserved for prefixes, and blocks are not full."""
_RESTART_RETRY_S = 2.0
_LOADING_RETRY_S = 5.0
_FAILED_RETRY_S = 60.0


class ServedText(msgspec.Struct, frozen=True):
    """Text side of a model whose engine is ready."""

    text: ModelText
    prompts: Prompts


class EngineBackend:
    """Implements `backends.api.Backend` over one engine. Created and used on one event loop."""

    def __init__(self, supervisor: Supervisor, *, open_text: Callable[[], ModelText], config: EngineConfig) -> None:
        """Serve one engine. `open_text` runs in a thread, while the engine loads."""
        self._supervisor = supervisor
        self._admission = AdmissionControl(config, now=time.monotonic)
        self._served: ServedText | None = None
        self._failure: BackendError | None = None
        self._preparation: asyncio.Task[None] | None = None
        self._open_text = open_text

    def start(self) -> None:
        """Begin to load, in the background. Call it once."""
        self._supervisor.start()
        self._preparation = asyncio.create_task(self._prepare(), name="engine preparation")

    async def ready(self) -> None:
        """Wait until requests can be served. Raises `ModelError` with the reason if that can never be."""
        if self._preparation is None:
            raise ModelError("this backend was not started")
        await asyncio.wait((self._preparation,))
        if self._failure is not None:
            raise self._failure
        if self._served is None:
            raise ModelError("the backend was closed while it loaded")

    def capabilities(self) -> BackendCapabilities:
        served, facts = self._served, self._supervisor.facts
        if served is None or facts is None:
            raise ModelError("capabilities are known once the model is loaded")
        return BackendCapabilities(
            max_context=facts.max_context,
            chat=served.text.template is not None,
            adapters=bool(facts.adapters),
        )

    def health(self) -> Health:
        state = self._supervisor.state
        if self._failure is not None:
            return Health(ready=False, detail=str(self._failure), progress=0.0)
        if state.phase == "running" and self._served is not None:
            return Health(ready=True, fallbacks=self._supervisor.facts.fallbacks if self._supervisor.facts else ())
        detail = f"{state.phase}: {state.detail}" if state.detail else state.phase
        return Health(ready=False, detail=detail, progress=state.fraction)

    def stats(self) -> EngineStats | None:
        """Numbers of the engine's last step; None before the first one."""
        return self._supervisor.stats

    @property
    def step_histograms(self) -> StepHistograms:
        """Histograms of the engine's steps and of how long requests waited for their first one."""
        return self._supervisor.step_histograms

    @property
    def facts(self) -> Ready | None:
        """Facts that the engine sent when it became ready; None before."""
        return self._supervisor.facts

    @property
    def num_restarts(self) -> int:
        return self._supervisor.num_restarts

    @property
    def pid(self) -> int | None:
        """Process id of the engine, if it runs in a process of its own."""
        return self._supervisor.pid

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """See `Backend.generate`. An adapter that the engine does not have is rejected."""
        served, facts = self._require_running()
        check_request(request, facts)
        seconds_left(request)
        with self._admit(request, facts) as ticket:
            token_ids, prompt_text = await _encode(served, request.prompt)
            max_tokens = max_new_tokens(request, num_prompt=len(token_ids), max_context=facts.max_context)
            seconds_left(request)
            started = Started(len(token_ids), prompt_text, max_tokens)
            if max_tokens == 0 and request.prompt_logprobs is None:
                yield started
                yield Done("length", Usage(prompt_tokens=len(token_ids), completion_tokens=0))
                return
            # Before anything is sent to the engine: a bad stop string is rejected, too.
            decoder = OutputDecoder(
                served.text.tokenizer,
                prompt_ids=token_ids,
                stops=request.stop,
                is_scored=request.prompt_logprobs is not None,
            )
            yield started
            add = make_add(request, token_ids, max_tokens=max_tokens, eos_ids=_eos_ids(facts, served))
            with self._submitted(add) as stream:
                while not decoder.is_finished:
                    outputs = await stream.get()
                    if outputs[0].error is None:
                        ticket.start()
                    events = decoder.take(outputs)
                    if decoder.is_finished:
                        stream.close()
                        ticket.leave()  # a slow reader of existing outputs does not block others
                    for event in events:
                        yield event

    async def aclose(self) -> None:
        if self._preparation is not None:
            self._preparation.cancel()
            await asyncio.wait((self._preparation,))
        await self._supervisor.aclose()

    async def _prepare(self) -> None:
        try:
            text = await asyncio.to_thread(self._open_text)
            facts = await self._supervisor.ready()
            prompts = Prompts(text, vocab_size=facts.vocab_size, max_context=facts.max_context)
            self._served = ServedText(text, prompts)
        except BackendError as error:
            self._failure = error
            await self._supervisor.aclose()
        except Exception as error:  # process edge: `ready` must report whatever a tokenizer's library raises
            _log.exception("the model's text side could not be opened")
            self._failure = ModelError(f"{type(error).__name__}: {error}")
            await self._supervisor.aclose()

    def _admit(self, request: GenerateRequest, facts: Ready) -> AbstractContextManager[AdmissionTicket]:
        return self._admission.admit(
            tenant=request.share.tenant,
            weight=request.share.weight,
            num_served=facts.max_sequences,
            is_short=_is_short_of_memory(self._supervisor.stats, facts),
        )

    @contextlib.contextmanager
    def _submitted(self, add: Add) -> Generator[OutputStream]:
        """Keep the request with the engine until the end of the block, or until its deadline."""
        stream = self._supervisor.submit(add)
        expiry = None
        if add.deadline_s is not None:
            expiry = asyncio.get_running_loop().call_later(add.deadline_s, stream.expire)
        try:
            yield stream
        finally:
            if expiry is not None:
                expiry.cancel()
            stream.close()

    def _require_running(self) -> tuple[ServedText, Ready]:
        served, facts, phase = self._served, self._supervisor.facts, self._supervisor.state.phase
        if self._failure is not None or phase in ("failed", "closed"):
            raise Overloaded(f"the engine is not available: {self.health().detail}", retry_after_s=_FAILED_RETRY_S)
        if served is None or facts is None:
            raise Overloaded("the model is still loading", retry_after_s=_LOADING_RETRY_S)
        if phase != "running":
            raise Overloaded("the engine is restarting", retry_after_s=_RESTART_RETRY_S)
        return served, facts


async def start_engine_backend(
    load: Load, *, name: str, start: StartEngine = start_process, hang_timeout_s: float = HANG_TIMEOUT_S
) -> EngineBackend:
    """Spawn the engine and return at once; `health` shows progress and `ready` waits. Close it with `aclose`."""
    supervisor = Supervisor(load, name=name, start=start, hang_timeout_s=hang_timeout_s)
    path = Path(load.model_path)
    backend = EngineBackend(supervisor, open_text=lambda: load_text(path), config=load.engine)
    backend.start()
    return backend


def _is_short_of_memory(stats: EngineStats | None, facts: Ready) -> bool:
    """True if the engine runs fewer sequences than it could because keys and values fill its memory."""
    if stats is None or not stats.waiting or stats.running >= facts.max_sequences:
        return False
    return stats.kv_tokens >= _MOST * facts.kv_tokens > 0


async def _encode(served: ServedText, prompt: Prompt) -> tuple[list[int], str]:
    if served.prompts.estimate_bytes(prompt) <= _LARGE_PROMPT_BYTES:
        return _encode_now(served, prompt)
    return await asyncio.to_thread(_encode_now, served, prompt)


def _encode_now(served: ServedText, prompt: Prompt) -> tuple[list[int], str]:
    """Token ids, and the prompt's text to be echoed if requested; chats are never echoed."""
    token_ids = served.prompts.encode(prompt)
    match prompt:
        case ChatPrompt():
            return token_ids, ""
        case TextPrompt():
            return token_ids, prompt.text
        case TokenPrompt():
            detokenizer = Detokenizer(served.text.tokenizer)
            return token_ids, detokenizer.push(token_ids) + detokenizer.flush()


def _eos_ids(facts: Ready, served: ServedText) -> tuple[int, ...]:
    if facts.eos_token_ids:
        return facts.eos_token_ids
    eos_id = served.text.tokenizer.eos_id
    return () if eos_id is None else (eos_id,)
