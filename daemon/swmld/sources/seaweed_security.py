"""Keys and certificates of a secured SeaweedFS cluster, found where ``weed`` itself looks for them.

``security.toml`` in the working directory, ``~/.seaweedfs``, ``/usr/local/etc/seaweedfs`` or
``/etc/seaweedfs``, and over it variables such as ``WEED_JWT_SIGNING_READ_KEY``. Used are
``jwt.signing.read.key`` and, where it is there, ``jwt.signing.key`` (volume servers),
``jwt.filer_signing.read.key`` (the filer's HTTP), ``grpc.ca`` with ``grpc.client.cert`` and ``.key``, and
``https.client.ca``, ``.cert`` and ``.key``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import ssl
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swmld.errors import UsageError

VALID = 60
"""Seconds that a token is valid, SeaweedFS's own default."""

_PLACES = ("", "~/.seaweedfs", "/usr/local/etc/seaweedfs", "/etc/seaweedfs")


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM of mutual TLS."""

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)


class Security:
    """What is set; all of it may be empty. Shows none of it."""

    def __init__(self, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._settings, self._environment = settings, environment
        self.volume_key = self._value("jwt.signing.read.key").encode()
        self.write_key = self._value("jwt.signing.key").encode()
        self.filer_key = self._value("jwt.filer_signing.read.key").encode()

    @classmethod
    def found(cls) -> Security:
        """Blocking: of this host. ``UsageError`` where a file cannot be read."""
        for place in _PLACES:
            path = Path(place).expanduser() / "security.toml"
            try:
                return cls(tomllib.loads(path.read_text()), os.environ)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                # The parser's message tells line and column, not what stands there.
                raise UsageError(f"{path}: {error}") from None
        return cls({}, os.environ)

    def _value(self, key: str) -> str:
        variable = f"WEED_{key.replace('.', '_').upper()}"
        value: Any = self._settings
        for part in key.split("."):
            value = value.get(part, "") if isinstance(value, Mapping) else ""
        return self._environment.get(variable) or (value if isinstance(value, str) else "")

    def volume_headers(self, fid: str) -> dict[str, str]:
        """For a volume server, to read ``fid``."""
        return _bearer(self.volume_key, {"fid": fid}) if self.volume_key else {}

    def write_headers(self, fid: str, given: str) -> dict[str, str]:
        """For a volume server, to write or delete ``fid``; ``given``: the token that the filer gave with it,
        which is of use for some seconds."""
        if self.write_key:
            # Without the number after it of one of several that were given at once.
            return _bearer(self.write_key, {"fid": fid.partition("_")[0]})
        return {"Authorization": f"Bearer {given}"} if given else {}

    def filer_headers(self) -> dict[str, str]:
        """For the filer's HTTP, to read."""
        return _bearer(self.filer_key, {}) if self.filer_key else {}

    def grpc(self) -> Certificates | None:
        """For mutual TLS; None: gRPC is plain. ``UsageError``."""
        paths = [self._value(f"grpc.{name}") for name in ("ca", "client.cert", "client.key")]
        if not all(paths):
            return None
        try:
            authority, certificate, key = (Path(path).read_bytes() for path in paths)
        except OSError as error:
            raise UsageError(f"grpc of security.toml: {error}") from None
        return Certificates(authority, certificate, key)

    def https(self, ca: str = "") -> ssl.SSLContext:
        """For the filer and the volume servers. ``ca``: a file of certificates to trust. ``UsageError``."""
        context = ssl.create_default_context()
        certificate, key = self._value("https.client.cert"), self._value("https.client.key")
        try:
            for path in filter(None, (ca, self._value("https.client.ca"))):
                context.load_verify_locations(path)
            if certificate and key:
                context.load_cert_chain(certificate, key)
        except OSError as error:
            raise UsageError(f"certificates of the source: {error}") from None
        return context


def _bearer(key: bytes, claims: dict[str, Any]) -> dict[str, str]:
    """RFC 7519 by HMAC-SHA256, the one algorithm that SeaweedFS takes."""
    parts = [{"alg": "HS256", "typ": "JWT"}, claims | {"exp": int(time.time()) + VALID}]
    said = b".".join(_encoded(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    signature = hmac.digest(key, said, hashlib.sha256)
    return {"Authorization": f"Bearer {(said + b'.' + _encoded(signature)).decode()}"}


def _encoded(said: bytes) -> bytes:
    return base64.urlsafe_b64encode(said).rstrip(b"=")
