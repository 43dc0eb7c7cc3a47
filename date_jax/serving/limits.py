"""What a request may cost, and who may ask: all that stands between the network and the routes."""

import asyncio
import hmac
import json
from typing import Any, NamedTuple

from date_jax.errors import UsageError

# Without a token: a browser sends none with an address that is typed or clicked.
OPEN_PATHS = (
    *("/", "/page/app.js", "/page/style.css", "/docs", "/page/docs.js", "/openapi.json"),
    *("/healthz", "/readyz"),
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Limits(NamedTuple):
    """The caps of a server.

    Attributes:
        body_bytes: of a request.
        body_seconds: that a request may take to arrive.
        pixels: of a picture, known from its header.
        letters: of a text.
        rows: queries of one request, or answers that it asks for.
        waiting: questions that may wait for the network; others are answered with 503.
    """

    body_bytes: int = 16 << 20
    body_seconds: float = 30.0
    pixels: int = 40_000_000
    letters: int = 500
    rows: int = 64
    waiting: int = 256


def require_safe(host: str, token: str) -> None:
    """Refuses a server that other machines could reach without a token.

    Raises:
        UsageError: `host` is no loopback address and there is no token.
    """
    if host not in LOOPBACK and not token:
        raise UsageError(
            f"--host={host}: other machines could ask without a password\n"
            "  set DATE_JAX_TOKEN to a long random text, or leave --host out"
        )


class Gate:
    """An ASGI layer that refuses what may not come in, before anything of it is read.

    It checks the name in `Host` (a page of another site could ask for a loopback address), the
    token, and the size of the body, and adds HEADERS to every answer.

    Args:
        app: the ASGI application behind it.
        token: "" where none is needed.
        limits: `body_bytes` is read.
    """

    def __init__(self, app: Any, *, token: str, limits: Limits):
        self._app, self._token, self._limits = app, token, limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        if refusal := self._refusal(scope["path"], headers):
            await _send_error(send_with_headers, *refusal)
            return

        # The whole body first: without a length it is counted as it comes, and not for ever.
        try:
            body = await asyncio.wait_for(self._body(receive), self._limits.body_seconds)
        except TimeoutError:
            seconds = self._limits.body_seconds
            await _send_error(send_with_headers, 408, f"the request took more than {seconds} s")
            return
        if body is None:
            return  # who asked has left
        if len(body) > self._limits.body_bytes:
            await _send_error(send_with_headers, 413, self._body_text())
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed_receive() -> Any:
            return messages.pop() if messages else await receive()

        await self._app(scope, replayed_receive, send_with_headers)

    async def _body(self, receive: Any) -> bytes | None:
        """The body, or its beginning where it is too large; None where the request breaks off."""
        body = bytearray()
        while len(body) <= self._limits.body_bytes:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        return bytes(body)

    def _refusal(self, path: str, headers: dict[str, bytes]) -> tuple[int, str] | None:
        """The status and the sentence for a request that may not come in; None where it may."""
        host = headers.get("host", b"").decode("latin-1").rpartition(":")
        name = (host[0] if host[1] and host[2].isdigit() else "".join(host)).strip("[]")
        if not self._token and name not in LOOPBACK:
            return 421, "this server answers to 127.0.0.1 and localhost alone"
        given = headers.get("authorization", b"")
        wanted = b"Bearer " + self._token.encode()
        if self._token and path not in OPEN_PATHS and not hmac.compare_digest(given, wanted):
            return 401, "a token is needed: send the header Authorization: Bearer <token>"
        length = headers.get("content-length", b"0")
        if not length.isdigit():
            return 400, "Content-Length is no number"
        if int(length) > self._limits.body_bytes:
            return 413, self._body_text()
        return None

    def _body_text(self) -> str:
        return f"the request is too large: at most {self._limits.body_bytes:,} bytes"


async def _send_error(send: Any, status: int, text: str) -> None:
    """Sends a status and one sentence, as JSON."""
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
