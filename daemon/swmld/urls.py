"""Where a source is, as people write it: ``s3://bucket/prefix?endpoint=http://127.0.0.1:8333&path_style=true``.

    /srv/data, file:///srv/data                 a directory of this host, or mounted on it
    seaweedfs://HOST:PORT/PATH, seaweedfs+https the filer of a SeaweedFS cluster
    s3://BUCKET/PREFIX, gs://…, az://…          key prefixes are directories; az: the container
    http://HOST/PATH, https://…                 read-only: an index page or a manifest names the files

A URL holds nothing secret, since it is logged and is the cache's key: credentials come from the environment
and from files. ``%`` escapes are decoded; a question mark in a path is written ``%3F``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote_from_bytes, unquote_to_bytes, urlsplit

from swmld.errors import UsageError

ATTRIBUTES = {
    "uid": "owner of all files, as a number; 0",
    "gid": "group of all files, as a number; 0",
    "mode": "permissions of files, octal; 644",
    "dir_mode": "permissions of directories, octal; 755",
}
"""Options of sources that keep no owners and permissions."""

_CA = {"ca": "file of PEM certificates to trust besides the system's"}
_ANONYMOUS = {"anonymous": "true: send no credentials"}

OPTIONS: dict[str, dict[str, str]] = {
    "file": {},
    "seaweedfs": _CA,
    "seaweedfs+https": _CA,
    "s3": {
        "endpoint": "URL of the server, where it is not AWS",
        "region": "us-east-1",
        "path_style": "true: the bucket is in the path, false: in the host name",
        "profile": "section of ~/.aws/credentials",
        "requester_pays": "true: this account pays for requests",
    }
    | _ANONYMOUS
    | _CA
    | ATTRIBUTES,
    "gs": {"endpoint": "URL of the server, where it is not Google's"} | _ANONYMOUS | _CA | ATTRIBUTES,
    "az": {
        "account": "storage account",
        "endpoint": "URL of the server, where it is not Azure's",
        "emulator": "true: Azurite",
    }
    | _ANONYMOUS
    | _CA
    | ATTRIBUTES,
    "http": {"manifest": "URL or path of a list of the files"} | _CA | ATTRIBUTES,
    "https": {"manifest": "URL or path of a list of the files"} | _CA | ATTRIBUTES,
}
"""What may follow the question mark, a scheme each, with what it means."""

NAMED = ("endpoint", "account", "manifest", "emulator")
"""Options that say what the files are: part of the source's name. All others say how they are had."""

_SWITCHES = ("path_style", "requester_pays", "anonymous", "emulator")
_SECRETS = re.compile(r"key|secret|token|passw|pwd|credential|signature|^sig$|^sas|auth|connection", re.I)
_FAMILIES = ("AWS_", "AZURE_", "GOOGLE_", "WEED_")
"""How variables begin in which sources and their tools look for credentials."""
_GIVES = re.compile(r"KEY|SECRET|TOKEN|PASSW|AUTH|CREDENTIAL|CONNECTION|SAS")
_BUCKETS = ("s3", "gs", "az")
_BUCKET = re.compile(r"[A-Za-z0-9._$-]{1,255}")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_FILER = re.compile(_HOST.pattern + r"(?:\.[0-9]{1,5})?")
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+\](?=[,:/]|$)")
_HOW = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "http": "SWMLD_HTTP_AUTHORIZATION, such as 'Bearer …'",
    "https": "SWMLD_HTTP_AUTHORIZATION, such as 'Bearer …'",
}


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """A source's place, read and found to be possible; ``open_source`` makes the source of it."""

    scheme: str
    host: str
    """With the port, where one is given; of SeaweedFS several, with commas between them. The bucket
    or container of object stores; empty for directories."""
    path: bytes
    """Decoded, without slashes at its ends; of directories absolute."""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people and the cache's key: nothing that is secret, and the same for the same files."""
        path = quote_from_bytes(self.path, safe="/:@+,=~!$&'()*;")
        if self.scheme == "file":
            return path if path == self.path.decode("utf-8", "replace") else f"file://{path}"
        shown = [f"{key}={_shown(self.options[key])}" for key in NAMED if self.options.get(key)]
        return f"{self.scheme}://{self.host}/{path}" + (f"?{'&'.join(shown)}" if shown else "")

    def switch(self, key: str, default: bool = False) -> bool:
        """An option that is true or false."""
        return self.options.get(key, str(default)).lower() == "true"


def parse(text: str) -> SourceUrl:
    """The place that ``text`` names. Raises ``UsageError``, which never repeats a credential."""
    if text.startswith("/"):
        return SourceUrl("file", "", text.rstrip("/").encode("utf-8", "surrogateescape") or b"/")
    scheme, found, _ = text.partition("://")
    if not found:
        raise UsageError(
            f"source {_hinted(text)!r}: expected a path that begins with /, or a URL such as "
            "seaweedfs://HOST:PORT/PATH or s3://BUCKET/PREFIX"
        )
    scheme = scheme.lower()
    if scheme not in OPTIONS:
        raise UsageError(
            f"source: unknown scheme {scheme!r}{_near(scheme, OPTIONS)}; known: {', '.join(OPTIONS)}"
        )
    return _read(scheme, text)


def without_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """What programs that the daemon starts get of its environment: all but what gives access to sources,
    which others would read in their ``/proc/PID/environ``, and in the core dump of one that crashes."""
    return {
        name: value
        for name, value in environ.items()
        if name != "SWMLD_HTTP_AUTHORIZATION" and not (name.startswith(_FAMILIES) and _GIVES.search(name))
    }


def _read(scheme: str, text: str) -> SourceUrl:
    filers = scheme.startswith("seaweedfs")
    place = re.split("[/?#]", text.partition("://")[2], maxsplit=1)[0]
    try:
        # Brackets in a list of hosts are those of no host to ``urlsplit``.
        parts = urlsplit(text.replace(place, _BRACKETED.sub("v6", place), 1) if filers else text)
        if not filers:
            parts.port  # noqa: B018  read for its ValueError
    except ValueError as error:
        if "@" in text:
            raise UsageError(f"source {scheme}://: {_no_credentials(scheme)}") from None
        raise UsageError(f"source {_hinted(text)!r}: {error}") from None
    if "@" in parts.netloc:
        raise UsageError(f"source {scheme}://: {_no_credentials(scheme)}")
    if parts.fragment:
        raise UsageError(f"source {_hinted(text)!r}: write # in a path as %23")
    path = unquote_to_bytes(parts.path)
    if scheme == "file":
        return _directory(parts.netloc, path, parts.query)
    what = {"az": "container"}.get(scheme, "bucket") if scheme in _BUCKETS else "host"
    place = place if filers else parts.netloc
    if not place:
        raise UsageError(f"source {_hinted(text)!r}: the {what} is missing: {scheme}://{what.upper()}/…")
    possible = _FILER if filers else _BUCKET if scheme in _BUCKETS else _HOST
    if not all(possible.fullmatch(host) for host in (place.split(",") if filers else [place])):
        if "@" in text:  # a key of S3 may have a slash in it
            raise UsageError(f"source {scheme}://: {_no_credentials(scheme)}")
        raise UsageError(f"source {scheme}://: a {what} cannot be called {place!r}")
    path = path.strip(b"/")
    if any(part in (b"", b".", b"..") for part in path.split(b"/")) and path:
        raise UsageError(f"source {_hinted(text)!r}: the path has an empty part, or . or ..")
    return SourceUrl(scheme, place, path, _options(scheme, parts.query))


def _directory(host: str, path: bytes, query: str) -> SourceUrl:
    if host not in ("", "localhost") or not path.startswith(b"/"):
        raise UsageError("source file://: expected file:///PATH")
    return SourceUrl("file", "", path.rstrip(b"/") or b"/", _options("file", query))


def _options(scheme: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in OPTIONS[scheme]:
            if _SECRETS.search(key):
                raise UsageError(f"source {scheme}://: {_no_credentials(scheme)}")
            known = ", ".join(OPTIONS[scheme]) or "none"
            raise UsageError(
                f"source {scheme}://: unknown option {key!r}{_near(key, OPTIONS[scheme])}; known: {known}"
            )
        if key in options:
            raise UsageError(f"source {scheme}://: option {key} is given twice")
        options[key] = _value(scheme, key, value)
    return options


def _value(scheme: str, key: str, value: str) -> str:
    """``value`` if it can be one of ``key``."""
    expected = ""
    if key in _SWITCHES and value.lower() not in ("true", "false"):
        expected = "true or false"
    elif key in ("uid", "gid") and not (re.fullmatch(r"[0-9]{1,10}", value) and int(value) < 1 << 32):
        expected = "a number"
    elif key in ("mode", "dir_mode") and not re.fullmatch(r"0?[0-7]{3}", value):
        expected = "permissions such as 644"
    elif key == "endpoint":
        _endpoint(scheme, value)
    elif key == "manifest" and _is_telling(value):
        raise UsageError(f"source {scheme}://: manifest: {_no_credentials(scheme)}")
    elif not value:
        expected = "a value"
    if expected:
        raise UsageError(f"source {scheme}://: {key}: cannot read {value!r}; expected {expected}")
    return value


def _is_telling(manifest: str) -> bool:
    """Whether what may be a URL has credentials in it."""
    if "://" not in manifest:
        return False
    place, _, rest = manifest.partition("://")[2].partition("/")
    return "@" in place or bool(_SECRETS.search(rest.partition("?")[2]))


def _endpoint(scheme: str, value: str) -> None:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    else:
        if "@" in parts.netloc or _SECRETS.search(parts.query):
            raise UsageError(f"source {scheme}://: endpoint: {_no_credentials(scheme)}")
        good = good and not parts.query and not parts.fragment
    if not good:
        raise UsageError(f"source {scheme}://: endpoint: expected a URL such as http://127.0.0.1:8333")


def _no_credentials(scheme: str) -> str:
    return (
        f"credentials do not go into the URL, which is logged; give {_HOW.get(scheme, 'them otherwise')}"
        + (" in the environment" if scheme in _HOW else "")
    )


def _shown(text: str) -> str:
    """A URL without what could be secret in it: user, password, query."""
    return re.sub(r"//[^/@]*@", "//", text).partition("?")[0]


def _hinted(text: str) -> str:
    """Of what may be no URL at all: also without what comes before an ``@`` anywhere."""
    return _shown(text.rpartition("@")[2])


def _near(word: str, words: dict[str, dict[str, str]] | dict[str, str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f", did you mean {near[0]!r}?" if near else ""
