"""Where credentials of S3 come from, in which order, when they are renewed; that they stay where they belong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.source_kit import failing
from support.webservers import Hostile, respond
from swmld.sources import objects_credentials
from swmld.sources.objects_credentials import Chain, Credential
from swmld.sources.objects_s3 import Place, place_of, sign
from swmld.sources.urls import open_source, parse

FAR = "2099-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def hostile() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


def temporary(number: int, until: str = FAR) -> bytes:
    found = {
        "AccessKeyId": f"key{number}",
        "SecretAccessKey": "secret",
        "Token": "token",
        "Expiration": until,
    }
    return json.dumps(found).encode()


@pytest.fixture
def every(hostile: Hostile, tmp_path: Path) -> dict[str, str]:
    """Variables for all ways at once, the first of them winning."""
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = of-file\naws_secret_access_key = s%cret\n"
        "[other]\naws_access_key_id = of-other\naws_secret_access_key = secret\naws_session_token = token\n"
    )
    (tmp_path / "token").write_text("token of the cluster\n")
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    values = ("of-sts", "secret", "token", FAR)
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, values, strict=True))
    roles = "/latest/meta-data/iam/security-credentials/"
    hostile.asked.clear()
    hostile.answers = {
        "/sts": respond(200, f'<R xmlns="https://sts"><Credentials>{inside}</Credentials></R>'.encode()),
        "/container": respond(200, temporary(1)),
        roles: respond(200, b"role of host\n"),
        f"{roles}role": respond(200, temporary(2)),
    }
    base = f"http://{hostile.address}"
    return {
        "AWS_ACCESS_KEY_ID": "of-environment",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ROLE_ARN": "arn:role",
        "AWS_ENDPOINT_URL_STS": f"{base}/sts",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{base}/container",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "token of the container",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": base,
    }


def test_the_environment_comes_first(every: dict[str, str]) -> None:
    found = Chain(region="r", environ=every).get()
    assert found == Credential("of-environment", "secret")


def test_then_the_file(every: dict[str, str]) -> None:
    del every["AWS_ACCESS_KEY_ID"]
    assert Chain(region="r", environ=every).get() == Credential("of-file", "s%cret")
    every["AWS_PROFILE"] = "other"
    assert Chain(region="r", environ=every).get() == Credential("of-other", "secret", "token")


def test_a_profile_that_is_named_comes_before_the_environment(every: dict[str, str]) -> None:
    assert Chain("other", region="r", environ=every).get().key == "of-other"
    error = failing(Chain("absent", region="r", environ=every).get)
    assert "those of file cannot be had" in str(error)
    assert isinstance(error, PermissionError)


def test_then_the_services(every: dict[str, str], hostile: Hostile) -> None:
    del every["AWS_ACCESS_KEY_ID"], every["AWS_SHARED_CREDENTIALS_FILE"]
    every["HOME"] = "/absent"
    hostile.answers["/sts"], sts = respond(200), hostile.answers["/sts"]
    error = failing(Chain(region="r", environ=every).get)
    assert "those of web identity cannot be had" in str(error)
    hostile.answers["/sts"] = sts
    found = Chain(region="r", environ=every).get()
    until = datetime(2099, 1, 1, tzinfo=UTC).timestamp()
    assert found == Credential("of-sts", "secret", "token", until)
    del every["AWS_ROLE_ARN"]
    assert Chain(region="r", environ=every).get().key == "key1"
    assert hostile.asked[-1][2]["authorization"] == "token of the container"


def test_the_instance_comes_last(every: dict[str, str], hostile: Hostile) -> None:
    metadata = {
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": every["AWS_EC2_METADATA_SERVICE_ENDPOINT"],
        "HOME": "/absent",
    }
    # It answers PUT with 501, as a host that is none of AWS's may.
    error = failing(Chain(region="r", environ=metadata).get)
    assert "credentials of S3: none" in str(error)
    hostile.token = b"token of the host"
    assert Chain(region="r", environ=metadata).get().key == "key2"
    assert hostile.asked[-1][2]["x-aws-ec2-metadata-token"] == "token of the host"
    hostile.token = b""
    hostile.asked.clear()
    failing(Chain(region="r", environ={**metadata, "AWS_EC2_METADATA_DISABLED": "true"}).get)
    assert not hostile.asked


def test_they_are_renewed_before_their_end(
    every: dict[str, str], hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    del every["AWS_ACCESS_KEY_ID"], every["AWS_SHARED_CREDENTIALS_FILE"], every["AWS_ROLE_ARN"]
    every["HOME"] = "/absent"
    now = 4_000_000_000.0
    monkeypatch.setattr(objects_credentials.time, "time", lambda: now)
    until = datetime.fromtimestamp(now + 3600, UTC).isoformat()
    hostile.answers["/container"] = respond(200, temporary(1, until))
    chain = Chain(region="r", environ=every)
    assert chain.get().key == "key1"
    hostile.answers["/container"] = respond(200, temporary(2, until))
    now += 3299
    assert chain.get().key == "key1"
    now += 2
    assert chain()["access_key_id"] == "key2"
    assert chain()["expires_at"] == datetime.fromisoformat(until)


def test_no_text_shows_them() -> None:
    credential = Credential("key", "secret", "token")
    assert repr(credential) == str(credential) == "Credential(…)"
    assert f"{[credential]}" == "[Credential(…)]"


def test_both_clients_use_them(
    every: dict[str, str], hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile is what obstore itself does not know."""
    for name, value in every.items():
        monkeypatch.setenv(name, value)
    hostile.answers["/b"] = respond(200, b"<ListBucketResult></ListBucketResult>")
    hostile.answers["/b/f"] = respond(200, b"x", {"Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"})
    source = open_source(
        parse(f"s3://b?endpoint=http://{hostile.address}&profile=other"), timeout=20, parallel=1
    )
    try:
        assert source.stat(b"f").size == 1
    finally:
        source.close()
    asked = [(method, headers) for method, _, headers in hostile.asked]
    assert sorted(method for method, _ in asked) == ["GET", "HEAD"]
    for _, headers in asked:
        assert "Credential=of-other/" in headers["authorization"]
        assert headers["x-amz-security-token"] == "token"


def test_the_signature_is_that_of_the_documentation() -> None:
    """ "GET Bucket (List Objects)" of AWS's "Examples of how to calculate Signature Version 4"."""
    place = Place("https://examplebucket.s3.amazonaws.com", "us-east-1", False, "examplebucket")
    credential = Credential("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    now = datetime(2013, 5, 24, tzinfo=UTC)
    headers = sign(place, credential, "max-keys=2&prefix=J", {}, now, host="examplebucket.s3.amazonaws.com")
    assert headers["Authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


@pytest.mark.parametrize(
    ("text", "environ", "endpoint", "target", "address"),
    [
        ("s3://b", {}, "https://b.s3.us-east-1.amazonaws.com", "/", "b.s3.us-east-1.amazonaws.com:443"),
        ("s3://b.c", {"AWS_REGION": "eu"}, "https://s3.eu.amazonaws.com", "/b.c", "s3.eu.amazonaws.com:443"),
        ("s3://b?endpoint=http://h:1/x/", {"AWS_ENDPOINT_URL": "http://o"}, "http://h:1/x", "/x/b", "h:1"),
        ("s3://b", {"AWS_ENDPOINT_URL_S3": "http://h"}, "http://h", "/b", "h:80"),
        ("s3://b?endpoint=http://h&path_style=false", {}, "http://b.h", "/", "b.h:80"),
    ],
)
def test_places(text: str, environ: dict[str, str], endpoint: str, target: str, address: str) -> None:
    place = place_of(parse(text), environ)
    assert (place.endpoint, place.target, place.address) == (endpoint, target, address)
