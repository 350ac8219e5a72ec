"""Prompts and answers in the log: of tenants whose policy asks for it, and of nobody else."""

from __future__ import annotations

import logging

import msgspec

from backends.generation import Delta, Event, Prompt
from gateway.api.convert import RequestPlan
from gateway.metrics import RequestOutcome

_log = logging.getLogger("gateway.prompts")
_encode = msgspec.json.Encoder().encode


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One line of JSON, in which no text can begin a line of its own."""

    request_id: str
    id: str
    tenant: str
    model: str
    outcome: RequestOutcome
    prompts: list[Prompt]
    answers: list[str]


class PromptLog:
    """Collects the answers of one request."""

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
