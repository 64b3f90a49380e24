"""Secrets in texts: replaced before anything is stored or shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
# a tokenizer's pad_token is none: only tokens of a known kind, and `token` alone
_NAMES = (
    r"(?:[\w-]*(?:api[_-]?key|access[_-]?key|secret|password|passwd|credentials?|"
    r"(?:hf|hub|access|auth|api|refresh|bearer|github|wandb|sigopt)[_-]?token)|token)"
)
_NOT_CODE = r"(?!\d+(?:\.\d+)?\b)(?![\w.]*[(\[])(?!self\.)"  # a number, a call or an attribute is no secret
# each keeps its first group, and hides what follows it
_SECRETS = tuple(
    re.compile(pattern, re.IGNORECASE if fold else 0)
    for pattern, fold in (
        (r"\b(hf_)[A-Za-z0-9]{16,}", False),  # Hugging Face
        (r"\b(wandb_v\d+_)[A-Za-z0-9_-]{16,}", False),
        (r"\b(gh[pousr]_|github_pat_)[A-Za-z0-9_]{20,}", False),
        (r"\b(sk-)[A-Za-z0-9_-]{20,}", False),
        (r"\b(AKIA|ASIA)[A-Z0-9]{16}\b", False),
        (r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]*:[^\s/@'\"]*(?=@)", True),  # user and password of an address
        (r"(\bBearer\s+)[A-Za-z0-9._~+/=-]{8,}", True),
        (
            rf"(\b{_NAMES}\\?[\"']?\s*[=:]\s*\\?[\"']?){_NOT_CODE}[^\s\"'\\,;&)}}\]]{{6,}}",
            True,
        ),  # NAME=value, "name": "value"
        (rf"(--{_NAMES}[ =]+[\"']?){_NOT_CODE}[^\s\"'-][^\s\"']{{5,}}", True),  # --name value
        (r"(\bwandb[^\n]{0,60}?\b)[0-9a-f]{40}\b", True),  # a key of W&B in the old form, beside its name
    )
)
_NAMED = re.compile(_NAMES, re.IGNORECASE)


def mask(text: str) -> str:
    """The text with tokens of known services, passwords and values of secret names replaced by `***`."""
    for pattern in _SECRETS:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


def masked(value: Any) -> Any:
    """A JSON value with secrets in its texts replaced, and every text under a secret's name."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return _masked_list(value)
    if isinstance(value, Mapping):
        return {k: MASK if _hidden(k, v) else masked(v) for k, v in value.items()}
    return value


def _masked_list(values: list[Any]) -> list[Any]:
    """A list may be a command: what follows an option with a secret's name is one."""
    found = []
    for before, value in zip([None, *values], values, strict=False):
        option = isinstance(before, str) and before.startswith("--") and "=" not in before
        found.append(MASK if option and _hidden(str(before).lstrip("-"), value) else masked(value))
    return found


def _hidden(name: Any, value: Any) -> bool:
    secret = isinstance(name, str) and isinstance(value, str) and _NAMED.fullmatch(name.rpartition(".")[2])
    return bool(secret) and value.lower() not in ("", "none", "true", "false") and not value.replace(".", "").isdigit()
