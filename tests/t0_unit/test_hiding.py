"""What is secret in command lines and messages becomes stars, and nothing else does."""

from __future__ import annotations

import time

import pytest
from swmld.hiding import hidden, told

SECRET = b"HUSH4d1f"
TELLING = [
    b"swmld\0--source\0s3://me:HUSH4d1f@bucket/x\0",
    b"swmld\0--source=s3://AKIA0:a/HUSH4d1f@bucket/x\0",
    b"s3://me:HU@HUSH4d1f@bucket/x",
    b"s3://me:12HUSH4d1f/a@b/y",
    b"http://HUSH4d1f@127.0.0.1:1/x",
    b"No such command 's3://me:HUSH4d1f@b'",
    b"s3://b/x?endpoint=http%3A%2F%2Fme%3AHUSH4d1f%40127.0.0.1",
    b"s3://b/x?endpoint=http://me:HUSH4d1f@127.0.0.1:1",
    b"s3://b/x?region=us&secret_access_key=HUSH4d1f",
    b"az://c/x?sas_token=HUSH4d1f",
    b"az://c/x?sig=HUSH4d1f&x=1",
    b"az://c?connection_string=AccountKey%3DHUSH4d1f",
    b"http://127/x?X-Amz-Signature=HUSH4d1f",
    b"curl\0-H\0Authorization: Bearer HUSH4d1f\0x",
    b"curl\0-HX-Auth-Token:HUSH4d1f\0x",
    b"train.py\0--hf-token\0HUSH4d1f\0--lr\x001",
    b"mysql --password HUSH4d1f -h host",
    b"sh\0-c\0export AWS_SECRET_ACCESS_KEY=HUSH4d1f; python x",
    b"env\0PGPASSWORD=HUSH4d1f\0x",
    b'curl\0-d\0{"password": "HUSH4d1f"}',
]
PLAIN = [
    b"train.py\0--tokenizer=gpt2\0--num-tokens=5\0--keyframes=3\0--author=me\0--key=x",
    b"train.py\0--use-auth-token\0--lr\x001",
    b"http://h:80/a@b",
    b"http://h/a@b",
    b"seaweedfs://a:1,b:2.3/x@y",
    b"git\0clone\0git@github.com:me/it",
    b"x\0--password-file\0/run/it\0--token-path=/run/it",
    b"python\0-c\0import torch\0",
    b"",
]


@pytest.mark.parametrize("text", TELLING)
def test_secrets_are_hidden(text: bytes) -> None:
    found = hidden(text)
    assert SECRET not in found
    assert len(found) == len(text)
    assert hidden(found) == found
    assert told(text.decode()) == found.decode()


@pytest.mark.parametrize("text", PLAIN)
def test_all_else_stays(text: bytes) -> None:
    assert hidden(text) == text


LONG = [b"key" * 1300, b"a" * 4000 + b"key", b"://" * 1300 + b"@", b"-token" * 700, b"key=" * 1000]


def test_what_is_around_stays() -> None:
    assert hidden(b"--source\0s3://me:it@b/x?region=us&token=it&path_style=true\0--mount\0/m") == (
        b"--source\0s3://*****@b/x?region=us&token=**&path_style=true\0--mount\0/m"
    )
    assert told("caf\udce9 http://a:b@c") == "caf\udce9 http://***@c"


@pytest.mark.parametrize("text", LONG)
def test_long_words_take_no_time(text: bytes) -> None:
    """Who is looked at chooses the text: what it takes grows as its length, and no faster."""
    began = time.process_time()
    hidden(text)
    assert time.process_time() - began < 2.0
