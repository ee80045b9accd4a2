"""obstore's stores as URLs say, and listings of those that it lists whole.

Google's and Azure's stores are listed by ``list_with_delimiter``: to its end, 100 requests for 100,000 keys,
20 MB. What it found serves the directory's other pages for a minute.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from swmld.errors import UsageError
from swmld.sources.http1 import CONNECT_TIMEOUT
from swmld.sources.objects_credentials import Chain
from swmld.sources.objects_errors import spoken
from swmld.sources.objects_order import Key
from swmld.sources.objects_s3 import MOST, Bucket, Listed, place_of, plain_tag
from swmld.urls import SourceUrl

_KEPT, _KEPT_FOR = 4, 60.0
"""Whole listings kept at once, and for how many seconds their other pages are served from them."""


class Whole:
    """Listings of stores that obstore lists whole, kept for the next pages."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, list[Key]]] = {}

    def page(
        self,
        prefix: str,
        after: str = "",
        *,
        token: str = "",
        limit: int = MOST,
        deep: bool = False,
        what: str = "",
    ) -> Listed:
        """As ``Bucket.page``, of ``limit`` keys, however many there are."""
        if deep or (limit == 1 and not after):
            with spoken(what):
                first = next(iter(obstore.list(self._store, prefix or None, chunk_size=max(limit, 1))), [])
            return Listed([Key(meta["path"][len(prefix) :]) for meta in first][:limit], "")
        keys = self._listing(prefix, fresh=not after and not token, what=what)
        floor = (token or after).encode()
        shown = [key for key in keys if _order(key) > floor][: limit + 1]
        return Listed(
            shown[:limit], shown[limit - 1].name + "/" * shown[limit - 1].is_dir if shown[limit:] else ""
        )

    def marked(self, key: str, what: str) -> bool:
        """Whether the directory above has ``key`` as a prefix: below ``key`` obstore hides its own marker."""
        above, _, name = key.rpartition("/")
        keys = self._listing(f"{above}/" if above else "", fresh=False, what=what)
        return any(found.is_dir and found.name == name for found in keys)

    def forget(self, key: str) -> None:
        """The directory ``key`` was removed: where it was listed is listed anew."""
        above, _, _ = key.rpartition("/")
        with self._lock:
            self._kept.pop(f"{above}/" if above else "", None)

    def _listing(self, prefix: str, *, fresh: bool, what: str) -> list[Key]:
        with self._lock:
            taken, keys = self._kept.get(prefix, (0.0, []))
        if not fresh and taken and time.monotonic() - taken < _KEPT_FOR:
            return keys
        with spoken(what):
            found = obstore.list_with_delimiter(self._store, prefix or None)
        keys = [Key(name[len(prefix) :], True) for name in found["common_prefixes"]]
        for meta in found["objects"]:
            name, changed = meta["path"][len(prefix) :], int(meta["last_modified"].timestamp())
            keys.append(Key(name, False, meta["size"], changed, plain_tag(meta["e_tag"])))
        keys.sort(key=_order)
        with self._lock:
            self._kept.pop(prefix, None)
            self._kept[prefix] = (time.monotonic(), keys)
            while len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
        return keys

    def close(self) -> None:
        """Lets go of what is kept."""
        with self._lock:
            self._kept.clear()


def _order(key: Key) -> bytes:
    return (key.name + "/" * key.is_dir).encode()


def opened(url: SourceUrl, timeout: float) -> tuple[Any, Bucket | None, Chain | None]:
    """obstore's store, and for S3 the bucket beside it and what finds credentials for both."""
    certificates = _certificates(url)
    options: dict[str, Any] = {
        "timeout": timedelta(seconds=timeout),
        "connect_timeout": timedelta(seconds=min(timeout, CONNECT_TIMEOUT)),
        # Whether it is TLS is what the endpoint says.
        "allow_http": True,
    }
    if certificates:
        options["root_certificate"] = certificates
    anonymous = url.switch("anonymous") or os.environ.get("AWS_SKIP_SIGNATURE", "").lower() == "true"
    retries = cast(Any, {"max_retries": 0})
    config: dict[str, Any] = {"skip_signature": True} if anonymous else {}
    endpoint = url.options.get("endpoint", "")
    try:
        if url.scheme == "s3":
            place = place_of(url)
            chain = None if anonymous else Chain(url.options.get("profile", ""), region=place.region)
            payer = url.switch("requester_pays")
            tls = ssl.create_default_context(cadata=certificates or None) if place.tls else None
            if tls is not None and certificates:
                tls.load_default_certs()
            config |= {
                "endpoint": place.endpoint,
                "aws_endpoint_url_s3": place.endpoint,
                "region": place.region,
            }
            config |= {"virtual_hosted_style_request": not place.path_style, "request_payer": payer}
            store: Any = S3Store(
                url.host, config=cast(Any, config), client_options=cast(Any, options), retry_config=retries,
                credential_provider=cast(Any, chain),
            )  # fmt: skip
            return store, Bucket(place, chain, timeout=timeout, tls=tls, payer=payer), chain
        if url.scheme == "gs":
            config |= {"base_url": endpoint} if endpoint else {}
            return (
                GCSStore(
                    url.host,
                    config=cast(Any, config),
                    client_options=cast(Any, options),
                    retry_config=retries,
                ),
                None,
                None,
            )
        config |= {"endpoint": endpoint} if endpoint else {}
        config |= {"account_name": url.options["account"]} if "account" in url.options else {}
        config |= {"use_emulator": True} if url.switch("emulator") else {}
        return (
            AzureStore(
                url.host, config=cast(Any, config), client_options=cast(Any, options), retry_config=retries
            ),
            None,
            None,
        )
    except (obstore.exceptions.BaseError, ValueError, ssl.SSLError) as error:
        # Its text shows the configuration.
        raise UsageError(f"source {url.name}: {type(error).__name__}: what was given cannot work") from None


def _certificates(url: SourceUrl) -> str:
    """PEM of the certificates to trust besides the system's. ``UsageError`` where they cannot be read."""
    if not (path := url.options.get("ca", "")):
        return ""
    try:
        return Path(path).read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"source {url.name}: ca={path}: cannot be read: {error}") from None
