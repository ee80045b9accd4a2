"""Credentials of S3 where AWS's own tools look for them, in their order; given to obstore and to listings.

    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN                   unless a profile is named
    ~/.aws/credentials, or AWS_SHARED_CREDENTIALS_FILE; the profile by option, AWS_PROFILE or ``default``
    AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN                                 Kubernetes service accounts
    AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, AWS_CONTAINER_CREDENTIALS_FULL_URI    ECS, EKS pod identity
    the instance's metadata service (IMDSv2) unless AWS_EC2_METADATA_DISABLED

https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

from __future__ import annotations

import configparser
import errno
import json
import os
import threading
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as xml
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from swmld.sources.errors import failure

_CONTAINER = "http://169.254.170.2"
_METADATA = "http://169.254.169.254"
_EARLY = 300.0
"""Seconds before their end that credentials are renewed, as AWS's tools do."""
_WAIT = 2.0
"""Seconds for one answer: the services are on this host or its hypervisor; STS is not far."""


class Credential(NamedTuple):
    """One account's keys; ``until``: seconds since the epoch, 0 for ever. Its text shows none of them."""

    key: str
    secret: str
    token: str = ""
    until: float = 0.0

    def __repr__(self) -> str:
        return "Credential(…)"


class Chain:
    """Finds credentials and renews them; thread-safe. Callable as obstore's ``credential_provider``."""

    def __init__(self, profile: str = "", *, region: str, environ: Mapping[str, str] | None = None) -> None:
        self._profile, self._region = profile, region
        self._environ = os.environ if environ is None else environ
        self._lock = threading.Lock()
        self._found: Credential | None = None

    def get(self) -> Credential:
        """Those that are valid now. EACCES where there are none."""
        with self._lock:
            found = self._found
            if found is None or (found.until and found.until - time.time() < _EARLY):
                found = self._found = self._find()
            return found

    def __call__(self) -> dict[str, object]:
        found = self.get()
        until = datetime.fromtimestamp(found.until, UTC) if found.until else None
        return {
            "access_key_id": found.key,
            "secret_access_key": found.secret,
            "token": found.token or None,
            "expires_at": until,
        }

    def _find(self) -> Credential:
        for way in (self._variables, self._file, self._web_identity, self._container, self._instance):
            try:
                if found := way():
                    return found
            except (OSError, ValueError, KeyError, xml.ParseError, configparser.Error):
                # Its text may hold what was read; that none was had this way is all there is to say.
                reason = way.__name__.strip("_").replace("_", " ")
                raise failure(errno.EACCES, f"credentials of S3: those of {reason} cannot be had") from None
        raise failure(
            errno.EACCES, "credentials of S3: none in the environment and in ~/.aws/credentials, and no role"
        )

    def _variables(self) -> Credential | None:
        env = self._environ
        if self._profile or not env.get("AWS_ACCESS_KEY_ID"):
            return None
        return Credential(
            env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN", "")
        )

    def _file(self) -> Credential | None:
        env = self._environ
        path = Path(
            env.get("AWS_SHARED_CREDENTIALS_FILE") or Path(env.get("HOME", "/root"), ".aws/credentials")
        )
        profile = self._profile or env.get("AWS_PROFILE", "")
        parser = configparser.RawConfigParser()
        if not parser.read(path) or not parser.has_option(profile or "default", "aws_access_key_id"):
            if profile:
                raise ValueError("no such profile")
            return None
        section = parser[profile or "default"]
        return Credential(
            section["aws_access_key_id"],
            section["aws_secret_access_key"],
            section.get("aws_session_token", ""),
        )

    def _web_identity(self) -> Credential | None:
        env = self._environ
        if not env.get("AWS_WEB_IDENTITY_TOKEN_FILE") or not env.get("AWS_ROLE_ARN"):
            return None
        query = urllib.parse.urlencode(
            {
                "Action": "AssumeRoleWithWebIdentity",
                "Version": "2011-06-15",
                "RoleArn": env["AWS_ROLE_ARN"],
                "RoleSessionName": env.get("AWS_ROLE_SESSION_NAME", "swmld"),
                "WebIdentityToken": Path(env["AWS_WEB_IDENTITY_TOKEN_FILE"]).read_text().strip(),
            }
        )
        endpoint = env.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{self._region}.amazonaws.com"
        tree = xml.fromstring(_ask(endpoint, data=query.encode()))
        found = {child.tag.partition("}")[2]: child.text or "" for child in tree.iter()}
        until = datetime.fromisoformat(found["Expiration"]).timestamp()
        return Credential(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], until)

    def _container(self) -> Credential | None:
        env = self._environ
        relative = env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "")
        url = _CONTAINER + relative if relative else env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
        if not url:
            return None
        token = env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        if file := env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", ""):
            token = Path(file).read_text().strip()
        return _temporary(_ask(url, {"Authorization": token} if token else {}))

    def _instance(self) -> Credential | None:
        env = self._environ
        if env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            return None
        base = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or env.get("AWS_METADATA_ENDPOINT") or _METADATA
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
        try:
            token = _ask(f"{base}/latest/api/token", lifetime, data=b"", method="PUT").decode()
        except OSError:
            return None  # not on AWS, as most hosts
        headers = {"X-aws-ec2-metadata-token": token}
        roles = f"{base}/latest/meta-data/iam/security-credentials/"
        role = _ask(roles, headers).decode().split()[0]
        return _temporary(_ask(roles + urllib.parse.quote(role), headers))


def _temporary(document: bytes) -> Credential:
    found = json.loads(document)
    until = datetime.fromisoformat(found["Expiration"]).timestamp()
    return Credential(found["AccessKeyId"], found["SecretAccessKey"], found.get("Token", ""), until)


def _ask(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    data: bytes | None = None,
    method: str | None = None,
) -> bytes:
    """One answer of a service near by, never by a proxy: it would see the credentials."""
    request = urllib.request.Request(url, data, dict(headers or {}), method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_WAIT) as answer:
        return bytes(answer.read(1 << 20))
