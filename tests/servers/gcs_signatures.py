"""V4 signatures, checked as Google checks them: RSA over the canonical request, with the account's public key."""

from __future__ import annotations

import hashlib
import time
from calendar import timegm
from urllib.parse import quote, unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from gcs_state import Refusal
from werkzeug.wrappers import Request

WEEK = 604_800
SKEW = 900
clock = time.time
NEEDED = ("X-Goog-Algorithm", "X-Goog-Credential", "X-Goog-Date", "X-Goog-Expires", "X-Goog-SignedHeaders")


def require_signature(request: Request, path: str, public_key: RSAPublicKey, account: str) -> None:
    """Nothing, or the refusal that Google answers."""
    if any(name not in request.args for name in (*NEEDED, "X-Goog-Signature")):
        raise Refusal(403, "AccessDenied", "Anonymous caller does not have access to the object.")
    _require_scope(request, account)
    _require_time(request)
    signed = request.args["X-Goog-SignedHeaders"].split(";")
    _require_signed_headers(request, signed)
    _require_match(request, _string_to_sign(request, path, signed), public_key)


def _require_scope(request: Request, account: str) -> None:
    date = request.args["X-Goog-Date"][:8]
    wanted = f"{account}/{date}/auto/storage/goog4_request"
    if request.args["X-Goog-Credential"] != wanted or request.args["X-Goog-Algorithm"] != "GOOG4-RSA-SHA256":
        raise Refusal(403, "SignatureDoesNotMatch", "The credential is of another account or scope.")


def _require_time(request: Request) -> None:
    signed_at = timegm(time.strptime(request.args["X-Goog-Date"], "%Y%m%dT%H%M%SZ"))
    life = int(request.args["X-Goog-Expires"])
    if not 0 < life <= WEEK:
        raise Refusal(400, "AuthorizationQueryParametersError", "X-Goog-Expires must be less than a week.")
    if signed_at > clock() + SKEW:
        raise Refusal(403, "AccessDenied", "The request is not valid yet.")
    if clock() >= signed_at + life:
        raise Refusal(400, "ExpiredToken", "The provided token has expired.")


def _require_signed_headers(request: Request, signed: list[str]) -> None:
    sent = {name.lower() for name in request.headers.keys()}  # noqa: SIM118 - headers iterate over pairs
    unsigned = {name for name in sent if name.startswith("x-goog-")} - set(signed)
    if "host" not in signed or unsigned:
        raise Refusal(400, "MalformedSecurityHeader", "Header was included in the request and not signed.")


def _string_to_sign(request: Request, path: str, signed: list[str]) -> bytes:
    query = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in request.args.items(multi=True)
        if name != "X-Goog-Signature"
    )
    headers = [f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in signed]
    canonical = "\n".join(
        [
            request.method,
            quote(unquote(path), safe="/~"),
            "&".join(f"{name}={value}" for name, value in query),
            "".join(headers),
            ";".join(signed),
            request.headers.get("X-Goog-Content-SHA256", "UNSIGNED-PAYLOAD"),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    scope = request.args["X-Goog-Credential"].partition("/")[2]
    return f"GOOG4-RSA-SHA256\n{request.args['X-Goog-Date']}\n{scope}\n{digest}".encode()


def _require_match(request: Request, text: bytes, public_key: RSAPublicKey) -> None:
    try:
        signature = bytes.fromhex(request.args["X-Goog-Signature"])
        public_key.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
    except (ValueError, InvalidSignature):
        raise Refusal(403, "SignatureDoesNotMatch", "The request signature does not match.") from None
