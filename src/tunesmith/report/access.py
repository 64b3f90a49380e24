"""Who may look at a dashboard, and who may act on it.

Requests must name a host that this server goes by: a page of another name that resolves here (DNS rebinding) gets
nothing. From other origins nothing is taken. Whoever looks from another machine, and whoever acts, needs the token:
once in the address, then in a cookie that pages of other sites cannot send and scripts cannot read.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from email.message import Message
from http.cookies import CookieError, SimpleCookie


class Access:
    """The rules of a dashboard on `host` and `port`."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self.loopback = _is_loopback(host)
        self._any = host in ("", "0.0.0.0", "::")  # noqa: S104  told apart, not bound
        self._names = {"localhost", "127.0.0.1", "::1"} if self.loopback else {host.lower()}
        if self._any:
            self._names = {"localhost", socket.gethostname().lower()}
        self._port = port
        self._token = token
        self._cookie = f"tunesmith-{port}"

    def refusal(self, headers: Message) -> str | None:
        """Why a request is refused whoever it comes from; None when it is not."""
        host = headers.get("Host", "")
        if len(headers.get_all("Host") or ()) != 1 or not self._is_ours(host):
            return f"this dashboard does not go by the name {host!r}"
        origin = headers.get("Origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return f"requests from {origin!r} are not taken"
        if headers.get("Sec-Fetch-Site") == "cross-site" and headers.get("Sec-Fetch-Mode") != "navigate":
            return "requests from other sites are not taken"
        return None

    def refusal_to_act(self, headers: Message) -> str | None:
        """Why an action is refused; None when it is not."""
        refusal = self.refusal(headers)
        if refusal is not None:
            return refusal
        if headers.get("Origin") is None:
            return "an action needs an Origin"
        if headers.get_content_type() != "application/json":
            return "an action is sent as application/json"
        if not self._has_token(headers):
            return "an action needs the token: open the address that `tunesmith dashboard` printed"
        return None

    def may_look(self, headers: Message) -> bool:
        """Whether a request may see the studies."""
        return self.loopback or self._has_token(headers)

    def right(self, token: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(token.encode(), self._token.encode())

    def cookie(self, token: str) -> str:
        """The header that keeps the token in the browser, for this site alone."""
        return f"{self._cookie}={token}; Path=/; HttpOnly; SameSite=Strict"

    def _has_token(self, headers: Message) -> bool:
        bearer = headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            kept = SimpleCookie(headers.get("Cookie", "")).get(self._cookie)
        except CookieError:
            kept = None
        return self.right(bearer) or (kept is not None and self.right(kept.value))

    def _is_ours(self, host: str) -> bool:
        name, separator, port = host.rpartition(":")
        if not separator or port.endswith("]"):
            name, port = host, "80"
        name = name.removeprefix("[").removesuffix("]").lower()
        if not port.isdigit() or int(port) != self._port:
            return False
        return name in self._names or (self._any and _is_address(name))


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
