"""Explain errors of the Hugging Face hub: what failed, and whether and when to try again."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from nano_hindi.errors import first_line

RETRIED = {408, 416, 425, 429}  # and 5xx; 416 because the hub's CDN now and then denies a range that exists


def response_of(error: BaseException | None) -> Any:
    """Return the HTTP response of an exception, or of the first of its causes that has one."""
    while error is not None and getattr(error, "response", None) is None:
        error = error.__cause__ or error.__context__
    return getattr(error, "response", None)


def is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed later: by its HTTP status, or without a response
    if it is an error of the network."""
    response = response_of(error)
    if response is None:
        return _is_of_the_network(error)
    return response.status_code in RETRIED or response.status_code >= 500


def _is_of_the_network(error: Exception) -> bool:
    """Return whether an exception without an HTTP response is a connection error, or corrupt
    data."""
    import pyarrow

    if isinstance(error, (ConnectionError, TimeoutError, EOFError, pyarrow.ArrowException)) or type(error) is OSError:
        return True
    return type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))


def asked_to_wait(response: Any) -> float:
    """Return the seconds that a response asks the client to wait, or 0: `Retry-After: 7`, a date,
    or the hub's `RateLimit: "api";r=0;t=7`."""
    headers = {} if response is None else response.headers
    if found := re.search(r"\br=0;\s*t=(\d+)", headers.get("RateLimit", "")):
        return float(found[1])
    asked = headers.get("Retry-After", "").strip()
    try:
        return float(asked) if asked.isdecimal() else max(0.0, (parsedate_to_datetime(asked) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def reason_of(error: Exception) -> str:
    """Return a short description of an error: the status and the hub's own message if there is
    one."""
    response = response_of(error)
    if response is not None:
        said = response.headers.get("X-Error-Message", "")
        return f"HTTP {response.status_code}{': ' + said.rstrip('.') if said else ''}"[:300]
    words = first_line(error.__cause__ or error)
    return words if isinstance(error, OSError) else f"{type(error).__name__}: {words}"


def page_of(dataset: str) -> str:
    """Return the address of a data set's page on the hub."""
    return f"https://huggingface.co/datasets/{dataset}"


def remedy(response: Any, dataset: str) -> str:
    """Return what the user can do about a request for a data set that failed for good; `response`
    is None if there was none."""
    if response is not None and response.status_code == 404:
        return "check the name"
    if response is None or response.status_code not in (401, 403):
        return "check the connection (HF_ENDPOINT names a mirror, HF_TOKEN logs in)"
    from huggingface_hub import get_token

    code, log_in = response.headers.get("X-Error-Code"), "log in with HF_TOKEN or `hf auth login`"
    if code == "GatedRepo":
        return f"accept the terms on its page ({page_of(dataset)}), and log in as that user (HF_TOKEN, or `hf auth login`)"
    if get_token():
        return "HF_TOKEN (or what `hf auth login` stored) is wrong or has expired: make a new one, or unset it"
    if code == "RepoNotFound":  # what the hub answers without a login, private or not there
        return f"check the name, and {log_in} if the data set is private"
    return log_in
