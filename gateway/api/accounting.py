"""Accounting of one request, from its arrival to its end, and its prompt in the log where the tenant allows."""

from __future__ import annotations

import logging
import time

import msgspec

from backends.errors import ContextLengthExceeded
from backends.generation import Delta, Event, Prompt, Started, Usage
from gateway.api.convert import RequestPlan
from gateway.api.problems import reason_of
from gateway.api.services import Services
from gateway.errors import RateLimited
from gateway.metrics import RequestOutcome
from gateway.tenants.limits.budgets import NOTHING, Amount
from gateway.tenants.limits.limits import NOTHING_RESERVED
from gateway.tenants.limits.prices import cost_nanos
from gateway.tenants.usage.entry import State, UsageEntry

_log = logging.getLogger("gateway.prompts")
_encode = msgspec.json.Encoder().encode


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One log line of JSON; no text in it can start a new line."""

    request_id: str
    id: str
    tenant: str
    model: str
    outcome: RequestOutcome
    prompts: list[Prompt]
    answers: list[str]


class PromptLog:
    """Collects the outputs of one request."""

    def __init__(self, plan: RequestPlan) -> None:
        self._plan = plan
        self._texts: list[list[str]] = [[] for _ in plan.requests]

    def see(self, choice: int, event: Event) -> None:
        if isinstance(event, Delta):
            self._texts[choice].append(event.text)

    def write(self, outcome: RequestOutcome) -> None:
        plan = self._plan
        line = LoggedRequest(
            request_id=plan.request_id,
            id=plan.id,
            tenant=plan.caller.tenant.name,
            model=plan.route.name,
            outcome=outcome,
            prompts=[request.prompt for request in plan.requests[:: plan.choices_per_prompt]],
            answers=["".join(texts) for texts in self._texts],
        )
        _log.info("%s", _encode(line).decode())


def prompt_log_of(plan: RequestPlan) -> PromptLog | None:
    return PromptLog(plan) if plan.caller.tenant.policy.log_prompts else None


_RETRY_S = 5.0
_STATES: dict[RequestOutcome, State] = {
    "completed": "completed",
    "cancelled": "client_cancelled",
    "failed": "engine_failed",
    "shutdown": "shutdown",
}


class RequestAccount:
    """Accounts for a request: `enter`, `reserve`, `see` events, and exactly one `close`, which settles and records."""

    def __init__(self, plan: RequestPlan, services: Services) -> None:
        self._plan = plan
        self._services = services
        self._meter = services.metrics.begin(
            model=plan.served.name, tenant=plan.caller.tenant.name, arrived_s=plan.arrived_s
        )
        self._reservation = NOTHING_RESERVED
        self._prompt_log = prompt_log_of(plan)
        self._started_at = time.time() - (time.perf_counter() - plan.arrived_s)

    async def enter(self) -> None:
        """Raises `RateLimited`, `QuotaExceeded` or `UsageUnavailable`."""
        if self._services.usage_recorder is not None:
            self._services.usage_recorder.admit()
        limiter, plan = self._services.limiter, self._plan
        self._reservation = await limiter.shares.granted_soon(lambda: limiter.enter(plan.caller, plan.served.name))

    async def reserve(self, started: list[Started]) -> None:
        """Reserve each prompt once, and all that may be generated. Raises `RateLimited` or `QuotaExceeded`."""
        plan = self._plan
        prompts = sum(each.prompt_tokens for each in started[:: plan.choices_per_prompt])
        pairs = zip(started, plan.requests, strict=True)
        wanted = sum(each.max_tokens or request.max_tokens or 0 for each, request in pairs)
        amount = self._amount(prompts, wanted)
        await self._services.limiter.shares.granted_soon(lambda: self._reservation.take(amount))

    def see(self, choice: int, event: Event) -> None:
        self._meter.see(choice, event)
        if self._prompt_log is not None:
            self._prompt_log.see(choice, event)

    def usage(self) -> Usage:
        return self._meter.usage(choices_per_prompt=self._plan.choices_per_prompt)

    def refuse(self, error: Exception) -> None:
        """Count the reason why it is rejected; to be followed by `close`."""
        self._meter.refuse(reason_of(error))

    def refusal(self, error: ContextLengthExceeded) -> Exception:
        """Error for a prompt that is too long: the same, or that the limits leave too little for it now."""
        if not self._plan.is_bounded_by_room:
            return error
        return RateLimited(
            f"the prompt is longer than what the limits of this tenant or key leave now: {error}",
            retry_after_s=_RETRY_S,
        )

    def close(self, outcome: RequestOutcome) -> None:
        """Settle and record the request. A rejected one costs nothing and is not recorded."""
        used, ran = self.usage(), outcome != "refused"
        self._reservation.settle(self._used(used) if ran else NOTHING, ran=ran)
        if ran and self._services.usage_recorder is not None:
            self._services.usage_recorder.record(self._entry(_STATES[outcome], used))
        if self._prompt_log is not None:
            self._prompt_log.write(outcome)
        self._meter.end(outcome, choices_per_prompt=self._plan.choices_per_prompt)

    def _amount(self, prompt_tokens: int, completion_tokens: int) -> Amount:
        return self._used(Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens))

    def _used(self, used: Usage) -> Amount:
        return Amount(used.prompt_tokens + used.completion_tokens, self._cost_nanos(used))

    def _cost_nanos(self, used: Usage) -> int:
        return cost_nanos(
            self._plan.served.price,
            prompt_tokens=used.prompt_tokens,
            cached_tokens=used.cached_tokens,
            completion_tokens=used.completion_tokens,
        )

    def _entry(self, state: State, used: Usage) -> UsageEntry:
        plan = self._plan
        return UsageEntry(
            id=plan.id,
            request_id=plan.request_id,
            tenant_id=plan.caller.tenant.id,
            key_id=plan.caller.key.id,
            model=plan.route.name,
            state=state,
            started_at=self._started_at,
            ended_at=max(self._started_at, time.time()),
            prompt_tokens=used.prompt_tokens,
            cached_tokens=used.cached_tokens,
            completion_tokens=used.completion_tokens,
            accepted_prediction_tokens=used.accepted_prediction_tokens,
            cost_nanos=self._cost_nanos(used),
        )
