"""How fast chunks of a real SeaweedFS are read, and by which client: requests and MB a second, CPU a request.

    .venv/bin/python tests/bench/seaweed_gets.py [--seconds 3] [--threads 1 4 16]

The server runs on the same machine, so its CPU is in all figures. ``bare`` is gets.c, the least that a client
can do; ``ours`` is ``sources.connections``, ``source`` all of ``SeaweedSource`` (open and read); beside them
``http.client`` and obstore's HTTPStore.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import obstore
from obstore.store import HTTPStore
from support.seaweed import Cluster
from support.slowfs import compile_c
from swmld.sources.connections import Connections
from swmld.sources.interface import Attributes
from swmld.sources.seaweed_chunks import layout_of

SIZES = {"110 KiB": (110 << 10, 300), "4 MiB": (4 << 20, 8)}
Work = Callable[[dict[str, Any], memoryview, int], None]
"""One request of a thread: its own state, its buffer, which of the files."""


def measured(seconds: float, threads: int, size: int, count: int, work: Work) -> str:
    """All threads work for so long."""
    done = [0] * threads
    end = time.monotonic() + seconds

    def loop(number: int) -> None:
        state: dict[str, Any] = {}
        view, chance = memoryview(bytearray(size)), random.Random(number)
        while time.monotonic() < end:
            work(state, view, chance.randrange(count))
            done[number] += 1

    running = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    cpu, start = time.process_time(), time.monotonic()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    rate = sum(done) / (time.monotonic() - start)
    return f"{shown(rate, size)}, {(time.process_time() - cpu) / sum(done) * 1e6:5.0f} us of CPU"


def shown(rate: float, size: int) -> str:
    return f"{rate:6.0f} requests/s {rate * size / 1e6:5.0f} MB/s"


def bare(seconds: float, threads: int, size: int, port: int, targets: list[str]) -> str:
    program = compile_c(Path(__file__).with_name("gets.c"))
    words = [str(program), "127.0.0.1", str(port), str(seconds), str(threads), str(size)]
    text = "".join(f"{target}\n" for target in targets)
    found = subprocess.run(words, input=text, text=True, capture_output=True, check=True, timeout=60)
    return shown(float(found.stdout), size)


def works(
    cluster: Cluster, files: list[tuple[bytes, Attributes]], targets: list[str], size: int
) -> dict[str, Work]:
    port = cluster.volume_ports[0]
    address = f"127.0.0.1:{port}"
    connections, source = Connections(), cluster.source("d")
    store = HTTPStore(f"http://{address}", client_options={"allow_http": True})

    def ours(state: dict[str, Any], view: memoryview, which: int) -> None:
        connections.read(address, targets[which], view, whole=True)

    def whole(state: dict[str, Any], view: memoryview, which: int) -> None:
        source.open(*files[which]).read(view, 0)

    def client(state: dict[str, Any], view: memoryview, which: int) -> None:
        connection = state.setdefault("connection", http.client.HTTPConnection("127.0.0.1", port))
        connection.request("GET", targets[which])
        response = connection.getresponse()
        done = 0
        while done < size:
            done += response.readinto(view[done:])
        response.read()

    def objects(state: dict[str, Any], view: memoryview, which: int) -> None:
        view[:] = memoryview(obstore.get_range(store, targets[which][1:], start=0, length=size))

    return {"ours": ours, "source": whole, "http.client": client, "obstore": objects}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    with Cluster() as cluster:
        for label, (size, count) in SIZES.items():
            for number in range(count):
                cluster.put(f"/d/{size}-{number}", os.urandom(size))
            listing = cluster.source("d").list(b"").entries
            files = [(name, attributes) for name, attributes in listing if attributes.size == size]
            layouts = [layout_of(attributes.tag) for _, attributes in files]
            targets = [f"/{layout.chunks[0].fid}" for layout in layouts if layout]
            for threads in options.threads:
                given = options.seconds, threads, size
                print(f"{label} x{threads:2} {'bare':12}", bare(*given, cluster.volume_ports[0], targets))
                for name, work in works(cluster, files, targets, size).items():
                    print(f"{label} x{threads:2} {name:12}", measured(*given, len(files), work), flush=True)


if __name__ == "__main__":
    main()
