"""URLs that name sources: what is read, what is refused and how, and that a name has nothing secret."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swmld.errors import UsageError
from swmld.sources.opening import open_source
from swmld.urls import OPTIONS, SourceUrl, parse


@pytest.mark.parametrize(
    ("text", "scheme", "host", "path", "name"),
    [
        ("/srv/data/", "file", "", b"/srv/data", "/srv/data"),
        ("/", "file", "", b"/", "/"),
        ("/a?b#c%20", "file", "", b"/a?b#c%20", "file:///a%3Fb%23c%2520"),
        ("file:///srv/a%20b", "file", "", b"/srv/a b", "file:///srv/a%20b"),
        ("seaweedfs://filer:8888/buckets/train", "seaweedfs", "filer:8888", b"buckets/train", ""),
        ("S3://bucket", "s3", "bucket", b"", "s3://bucket/"),
        ("s3://bucket/a//", "s3", "bucket", b"a", "s3://bucket/a"),
        ("s3://bucket/a%3Fb/%c3%a4", "s3", "bucket", b"a?b/\xc3\xa4", "s3://bucket/a%3Fb/%C3%A4"),
        ("https://[::1]:8443/x", "https", "[::1]:8443", b"x", ""),
        ("gs://bucket/p?uid=7&mode=600", "gs", "bucket", b"p", "gs://bucket/p"),
        ("az://container?account=me", "az", "container", b"", "az://container/?account=me"),
        (
            "s3://b/p?region=eu-west-1&endpoint=http://127.0.0.1:8333&path_style=true",
            *("s3", "b", b"p", "s3://b/p?endpoint=http://127.0.0.1:8333"),
        ),
    ],
)
def test_what_is_read(text: str, scheme: str, host: str, path: bytes, name: str) -> None:
    url = parse(text)
    assert (url.scheme, url.host, url.path) == (scheme, host, path)
    assert url.name == (name or text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data", "begins with /"),
        ("seaweed://h/p", "did you mean 'seaweedfs'?"),
        ("ftp://h/p", "unknown scheme 'ftp'"),
        ("s3:///p", "the bucket is missing"),
        ("az:///p", "the container is missing"),
        ("http:///p", "the host is missing"),
        ("file://server/p", "file:///PATH"),
        ("s3://me:HUSH@b/p", "AWS_ACCESS_KEY_ID"),
        ("http://HUSH@h/p", "SWMLD_HTTP_AUTHORIZATION"),
        ("s3://b/p?secret_access_key=HUSH", "do not go into the URL"),
        ("az://b?sas_token=HUSH", "AZURE_STORAGE_ACCOUNT_KEY"),
        ("http://h/p?X-Amz-Signature=HUSH", "do not go into the URL"),
        ("s3://b?endpoint=http://me:HUSH@h", "do not go into the URL"),
        ("s3://b?endpoint=http://h?token=HUSH", "do not go into the URL"),
        ("http://h?manifest=http://me:HUSH@h/list", "SWMLD_HTTP_AUTHORIZATION"),
        ("http://h?manifest=http://h/list%3Ftoken=HUSH", "do not go into the URL"),
        ("s3://b?endpoint=h:8333", "http://127.0.0.1:8333"),
        ("s3://b?endpoint=http://h:99999", "http://127.0.0.1:8333"),
        ("s3://b?regoin=x", "did you mean 'region'?"),
        ("seaweedfs://h?region=x", "unknown option 'region'"),
        ("s3://b?region=a&region=b", "twice"),
        ("s3://b?region=", "a value"),
        ("s3://b?path_style=yes", "true or false"),
        ("s3://b?uid=root", "a number"),
        ("s3://b?mode=999", "permissions such as 644"),
        ("s3://b/a/../b", "empty part"),
        ("s3://b/a//b", "empty part"),
        ("s3://b/a#b", "%23"),
        ("http://h:x/p", "port"),
        ("http://[::1/p", "IPv6"),
        ("http://h\x01/p", "cannot be called"),
        ("s3://b:9000/p", "cannot be called"),
        ("http://ho st/p", "cannot be called"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert words.lower() in str(raised.value).lower()
    assert "HUSH" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_name_keeps_the_query_of_a_manifest_to_itself() -> None:
    url = parse("http://h/p?manifest=http://other/list%3FX-Sig=HUSH")
    assert url.options["manifest"] == "http://other/list?X-Sig=HUSH"
    assert url.name == "http://h/p?manifest=http://other/list"


@given(st.sampled_from(sorted(OPTIONS)), st.text(max_size=40))
def test_anything_is_a_url_or_one_line(scheme: str, rest: str) -> None:
    try:
        url = parse(f"{scheme}://{rest}")
    except UsageError as error:
        line = str(error)
    else:
        line = url.name
        assert parse(line).path == url.path
    assert len(line.splitlines()) == 1


@given(st.binary(max_size=30).map(lambda path: b"/" + path.strip(b"/")))
def test_a_directory_has_a_name_of_its_own(path: bytes) -> None:
    assert parse(SourceUrl("file", "", path).name).path == path


def test_a_source_imports_what_it_needs_and_no_more() -> None:
    program = (
        "import sys; from swmld.sources.opening import open_source; from swmld.urls import parse\n"
        "source = open_source(parse('http://h/p'), timeout=1, parallel=1)\n"
        "assert source.name == 'http://h/p'; source.close()\n"
        "print(sorted({'obstore', 'grpc', 'swmld.sources.objects'} & sys.modules.keys()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("text", ["s3://b/p?ca=/absent", "https://h/p?ca=/absent", "gs://b?ca=/absent"])
def test_certificates_that_are_not_there(text: str) -> None:
    with pytest.raises(UsageError, match="ca=/absent: cannot be read"):
        open_source(parse(text), timeout=1, parallel=1)


def test_a_directory_is_opened(tmp_path: object) -> None:
    source = open_source(parse(str(tmp_path)), timeout=1, parallel=1)
    assert source.stat(b"").is_dir
    source.close()


def test_several_filers_are_one_source() -> None:
    found = parse("seaweedfs://a:8888,b.c:9999/path")
    assert (found.host, found.path) == ("a:8888,b.c:9999", b"path")
    for hosts in ("[::1]:8888", "a:8888,[fe80::1]:9999", "[::1]:8888.19999,[::2]:8888", "a:8888.1,b:9999.2"):
        found = parse(f"seaweedfs://{hosts}/path/[1]/[::1]:1")
        assert (found.host, found.path) == (hosts, b"path/[1]/[::1]:1")
        assert found.name == f"seaweedfs://{hosts}/path/%5B1%5D/%5B::1%5D:1"
    for wrong in ("seaweedfs://a:8888,[::1/path", "seaweedfs://a:8888,::1:8888/path", "https://a:8888.9/path"):
        with pytest.raises(UsageError):
            parse(wrong)
    for wrong in ("seaweedfs://a:8888,/path", "seaweedfs://a:8888,b c/path", "http://a:80,b:80/path"):
        with pytest.raises(UsageError):
            parse(wrong)
