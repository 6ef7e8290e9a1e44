"""A fake of Google Cloud Storage that checks what the real one checks, on a free port of this machine.

It verifies V4 signatures, expiry, methods, content types, length ranges and generations; session URIs, ranges,
rewrites in several calls and CORS behave as documented; faults come by script.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from base64 import urlsafe_b64decode
from collections.abc import Callable
from functools import cache
from typing import Any

import gcs_json
import gcs_signed
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from gcs_faults import Script
from gcs_state import Refusal, State
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

ACCOUNT = "rindle@project-of-tests.iam.gserviceaccount.com"
AUDIENCE = "https://oauth2.googleapis.com/token"
JSON_ROOTS = ("storage", "download", "upload")


@cache
def private_key() -> rsa.RSAPrivateKey:
    """The key of the service account, made for this run."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class QuietHandler(WSGIRequestHandler):
    """Logs nothing: a request line may hold a session URI. Answers go out at once."""

    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class FakeGcs:
    """The server. Use it as a context; `script` has its faults and `requests` what was asked."""

    def __init__(self, bucket: str = "media-of-tests") -> None:
        self.bucket = bucket
        self.state = State()
        self.state.add_bucket(bucket)
        self.script = Script()
        self.rewrite_bytes = 1024 * 1024
        self.anonymous = False
        self.requests: list[tuple[str, Request]] = []
        self._tokens: set[str] = set()
        self._server = make_server("127.0.0.1", 0, self._app, threaded=True, request_handler=QuietHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def credentials(self) -> dict[str, str]:
        """The JSON of the service account."""
        pem = private_key().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": "project-of-tests",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": ACCOUNT,
            "token_uri": f"{self.url}/token",
        }

    @property
    def objects(self) -> dict[str, Any]:
        return self.state.objects[self.bucket]

    @property
    def open_sessions(self) -> list[str]:
        return [upload_id for upload_id, session in self.state.sessions.items() if session.state == "open"]

    def asked(self, operation: str) -> int:
        """How many requests there were for it."""
        return sum(name == operation for name, _ in self.requests)

    def __enter__(self) -> FakeGcs:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.script.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        request = Request(environ)
        path = environ["RAW_URI"].partition("?")[0]
        try:
            response = self._scripted(request, path)
        except Refusal as refusal:
            response = _refused(refusal)
        if path.split("/")[1] not in JSON_ROOTS:
            gcs_signed.allow_origin(self.state, request, path, response)
        return response(environ, start_response)

    def _scripted(self, request: Request, path: str) -> Response:
        request.get_data()
        segments = path.strip("/").split("/")
        operation = _operation(request, segments)
        self.requests.append((operation, request))
        fault = self.script.take(operation)
        if fault is not None:
            self.script.before(fault, request)
        response = self._answer(request, path, segments)
        return self.script.after(fault, request, response) if fault else response

    def _answer(self, request: Request, path: str, segments: list[str]) -> Response:
        if path == "/token":
            return self._token(request)
        if segments[0] not in JSON_ROOTS:
            return gcs_signed.answer(self.state, request, path, private_key().public_key(), ACCOUNT)
        if "upload_id" not in request.args and not self.anonymous:
            self._require_token(request)
        return gcs_json.answer(self.state, request, path, rewrite_bytes=self.rewrite_bytes)

    def _token(self, request: Request) -> Response:
        """An access token for an assertion that the account has signed."""
        header, claims, signature = request.form["assertion"].split(".")
        try:
            signed = f"{header}.{claims}".encode()
            private_key().public_key().verify(_decoded(signature), signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            raise Refusal(401, "invalid_grant", "Invalid JWT Signature.") from None
        told = json.loads(_decoded(claims))
        if (told["iss"], told["aud"]) != (ACCOUNT, AUDIENCE) or told["exp"] < time.time():
            raise Refusal(401, "invalid_grant", "Invalid JWT.")
        token = uuid.uuid4().hex
        self._tokens.add(token)
        return gcs_json.as_response({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})

    def _require_token(self, request: Request) -> None:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self._tokens:
            raise Refusal(401, "authError", "Invalid Credentials")


def _operation(request: Request, segments: list[str]) -> str:
    if segments == ["token"]:
        return "token"
    return gcs_json.operation(request, segments) if segments[0] in JSON_ROOTS else f"signed {request.method}"


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _refused(refusal: Refusal) -> Response:
    told = {
        "code": refusal.status,
        "message": refusal.message,
        "errors": [{"message": refusal.message, "domain": "global", "reason": refusal.reason}],
    }
    response = gcs_json.as_response({"error": told})
    response.status_code = refusal.status
    return response
