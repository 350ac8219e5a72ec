"""P9: who has no valid key gets an error object and nothing else."""

from __future__ import annotations

import httpx

from e2e.harness.running_server import Known, Target
from e2e.harness.shape import assert_error
from e2e.harness.wire import TIMEOUT, TLS, ask, get, headers, post, post_ok

ROUTES = (("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"))


def check_p9(target: Target, known: Known) -> None:
    check_p9_keys(target, known)
    check_p9_models_of_others(target, known)


def check_p9_keys(target: Target, known: Known) -> None:
    """No key, a wrong one, half of one, a disabled one, `Basic`, SQL: 401 or 403; the good key still works."""
    acme = target.keys.acme
    refused = {
        "no key": {},
        "wrong key": headers("sk-ho-wrong-000000000000000000"),
        "empty key": {"Authorization": "Bearer"},
        "first 20 characters right": headers(acme[:20] + "0" * (len(acme) - 20)),
        "one character more": headers(acme + "0"),
        "one character less": headers(acme[:-1]),
        "disabled tenant": headers(target.keys.disabled),
        "Basic": {"Authorization": f"Basic {acme}"},
        "bare key": {"Authorization": acme},
        "SQL": headers("' OR '1'='1' --"),
        "not ASCII": {"Authorization": "Bearer schlüssel"},
    }
    for method, path in ROUTES:
        for name, sent in refused.items():
            encoded = [(field.encode(), value.encode("latin-1")) for field, value in sent.items()]
            body = ask("capital of France", max_tokens=1) if method == "POST" else None
            url = target.url + path
            response = httpx.request(method, url, json=body, headers=encoded, timeout=TIMEOUT, verify=TLS)
            try:
                error = assert_error(response, 401, 403)
            except AssertionError as wrong:
                raise AssertionError(f"{method} {path}, {name}: {wrong}") from None
            assert acme not in response.text, f"{name}: the answer shows a key"
            assert response.status_code == 403 or error["code"] == "invalid_api_key", f"{name}: {error}"

    post_ok(f"{target.api}/chat/completions", ask("capital of France", max_tokens=1), acme)
    post_ok(f"{target.api}/chat/completions", ask("capital of France", max_tokens=1), target.keys.globex)


def check_p9_models_of_others(target: Target, known: Known) -> None:
    """A tenant restricted to one model sees that one, and cannot tell the others from models that do not exist."""
    narrow = target.keys.narrow
    listed = get(f"{target.api}/models", narrow).json()["data"]

    response = post(f"{target.api}/chat/completions", ask("capital of France", max_tokens=1), narrow)
    allowed = post(f"{target.api}/completions", {"model": "random", "prompt": [1, 2], "max_tokens": 1}, narrow)

    assert [model["id"] for model in listed] == ["random"]
    assert_error(response, 403, 404)
    assert allowed.status_code == 200, allowed.text
    everything = {model["id"] for model in get(f"{target.api}/models", target.keys.acme).json()["data"]}
    assert everything == {"demo", "random", "random-gguf", "counterfactual", "big"}
