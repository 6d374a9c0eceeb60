"""moto's S3 server over HTTP on the loopback interface, for this process and its children."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["SECRET", "serving_bucket"]

SECRET = "not-to-be-seen"


@contextmanager
def serving_bucket(name: str) -> Iterator[None]:
    """Serve an empty bucket, with the address and credentials in the environment."""
    import boto3  # the imports take seconds, and few tests need them
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "mine")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # fsspec keeps connections forever, also to a stopped server.
        S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket=name)
        yield
    S3FileSystem.clear_instance_cache()
    server.stop()
