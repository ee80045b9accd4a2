"""A mount of a bucket behind a real S3 gateway: small files, many at once, while others change them."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mount import MODES, Daemon
from support.seaweed import Cluster
from support.waiting import until

pytestmark = pytest.mark.timeout(240)

KEYS = ("key", "secret-of-tests")

READ_ALL = """
import hashlib, sys
for name in sys.argv[2:]:
    with open(f"{sys.argv[1]}/{name}", "rb") as file:
        print(hashlib.sha256(file.read()).hexdigest())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(s3=KEYS) as cluster:
        yield cluster


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


@pytest.mark.parametrize("mode", MODES)
def test_small_files_in_order(
    base: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """They are looked at by parts of the listing and fetched several at once; each read is of one generation
    that was stored."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
    names = [f"f{number:03}" for number in range(400)]
    sizes = {name: 1000 + 37 * number for number, name in enumerate(names)}
    replaced, removed = names[200:250], names[300:305]
    made = {name: {hashlib.sha256(content(name, sizes[name])).hexdigest()} for name in names}
    top = f"/buckets/small-{mode}"
    for name in names:
        cluster.put(f"{top}/d/{name}", content(name, sizes[name]))
    url = f"s3://small-{mode}/?endpoint=http://127.0.0.1:{cluster.s3}&path_style=true"
    (base / "own").mkdir()
    with Daemon(base / "own", mode, source=None, options=["--source", url]) as daemon:
        files = daemon.mount / "d"
        assert len(os.listdir(files)) == len(names)
        kept = [name for name in names if name not in removed]
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READ_ALL, str(files), *kept[n::4]],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for n in range(4)
        ]  # fmt: skip
        for name in replaced:  # some of the same length
            size = sizes[name] if int(name[1:]) % 2 else 5000
            made[name].add(hashlib.sha256(content(f"{name} again", size)).hexdigest())
            cluster.put(f"{top}/d/{name}", content(f"{name} again", size))
        for name in removed:
            cluster.delete(f"{top}/d/{name}")
        for number, reader in enumerate(readers):
            out, err = reader.communicate(timeout=120)
            assert reader.returncode == 0, err
            for name, digest in zip(kept[number::4], out.split(), strict=True):
                assert digest in made[name], f"{name}: bytes that nobody stored"

        def last(name: str) -> bytes:
            if name not in replaced:
                return content(name, sizes[name])
            return content(f"{name} again", sizes[name] if int(name[1:]) % 2 else 5000)

        until(lambda: all((files / name).read_bytes() == last(name) for name in kept), "the last ones")
        until(lambda: not any((files / name).exists() for name in removed), "what was removed is gone")
