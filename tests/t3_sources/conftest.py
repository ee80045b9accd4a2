"""One SeaweedFS cluster for all tests of a session that need no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.seaweed import Cluster


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Cluster]:
    """A cluster with an S3 gateway, files up to 512 bytes being kept in the filer's entries."""
    with Cluster(s3=("key", "secret-of-tests"), inline=512) as cluster:
        yield cluster
