"""What the tests of references may ask for: a real S3-compatible server."""

from collections.abc import Iterator

import pytest
from s3 import BUCKET, S3Server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a bucket on a running server, one for the whole session: give folders names of your own. The environment has what reaches it."""
    from s3fs import S3FileSystem

    with S3Server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield f"s3://{BUCKET}"
        S3FileSystem.clear_instance_cache()
