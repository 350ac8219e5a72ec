"""Table of operations from which the OpenAPI document is made. A test compares it with the routes."""

from __future__ import annotations

from gateway.api.openapi.operation import Operation
from gateway.api.schemas.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from gateway.api.schemas.common import Live, ModelList, ModelObject, Readiness
from gateway.api.schemas.completions import Completion, CompletionRequest

_SOCKET = """

The same path takes a WebSocket. Frames are JSON texts: a `SocketRequest` starts a request (streamed unless `stream` is
false, at most 32 at once), and each answer is a chunk object with `request_id` added, then an `EndFrame` or an error
object with `request_id`. A `CancelFrame` ends a request early. A bad frame is answered and the socket stays open."""


_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 8,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"accepted_prediction_tokens": 0},
}
_MODEL = {"id": "hostelry-demo", "object": "model", "created": 1767225600, "owned_by": "hostelry"}
_CHAT_ANSWER = {
    "id": "chatcmpl-0123456789abcdef01234567",
    "object": "chat.completion",
    "created": 1767225600,
    "model": "hostelry-demo",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "The capital of France is Paris.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": _USAGE,
}
_COMPLETION_ANSWER = {
    "id": "cmpl-0123456789abcdef01234567",
    "object": "text_completion",
    "created": 1767225600,
    "model": "hostelry-demo",
    "choices": [{"index": 0, "text": " Paris.", "logprobs": None, "finish_reason": "stop"}],
    "usage": _USAGE,
}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        path="/v1/chat/completions",
        method="post",
        id="createChatCompletion",
        summary="Continue a conversation",
        description="Whole, or as Server-Sent Events with `stream: true`." + _SOCKET,
        request=ChatCompletionRequest,
        response=ChatCompletion,
        chunk=ChatCompletionChunk,
        example={
            "model": "hostelry-demo",
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "temperature": 0,
        },
        answer=_CHAT_ANSWER,
        problems=(429, 504),
    ),
    Operation(
        path="/v1/completions",
        method="post",
        id="createCompletion",
        summary="Continue texts or token ids",
        description="Whole, or as Server-Sent Events with `stream: true`. At most 16 prompts a request.",
        request=CompletionRequest,
        response=Completion,
        chunk=Completion,
        example={"model": "hostelry-demo", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0},
        answer=_COMPLETION_ANSWER,
        problems=(429, 504),
    ),
    Operation(
        path="/v1/models",
        method="get",
        id="listModels",
        summary="Models this tenant may use",
        response=ModelList,
        answer={"object": "list", "data": [_MODEL]},
    ),
    Operation(
        path="/v1/models/{model_id}",
        method="get",
        id="retrieveModel",
        summary="One model",
        response=ModelObject,
        answer=_MODEL,
        problems=(404,),
        parameter="model_id",
    ),
    Operation(
        path="/health/live",
        method="get",
        id="live",
        summary="The process answers",
        response=Live,
        answer={"status": "alive"},
        is_public=True,
    ),
    Operation(
        path="/health/ready",
        method="get",
        id="ready",
        summary="Every model can answer",
        response=Readiness,
        answer={"status": "ready", "waiting_for": []},
        is_public=True,
        unready=Readiness,
    ),
    Operation(
        path="/health",
        method="get",
        id="health",
        summary="The same as /health/ready",
        response=Readiness,
        answer={"status": "ready", "waiting_for": []},
        is_public=True,
        unready=Readiness,
    ),
    Operation(
        path="/metrics",
        method="get",
        id="metrics",
        summary="Counters for Prometheus",
        description="Without a key for clients on the same machine only.",
        media_type="text/plain",
        answer='hostelry_engine_ready{model="hostelry-demo"} 1.0\n',
    ),
    Operation(
        path="/openapi.json",
        method="get",
        id="openapi",
        summary="This document",
        answer={"openapi": "3.1.0"},
        is_public=True,
    ),
)
