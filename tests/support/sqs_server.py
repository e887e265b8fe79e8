"""An SQS to test with: moto's server as a process of its own, one for all tests."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection
from threading import Thread
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

REGION = "us-east-1"
ACCOUNT = "123456789012"
RUNNING = "Running on http://127.0.0.1:"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
QUEUES = ("default", "mail", "billing", "other", "a")
"""Those that tests of every engine use. SQS has to have them before."""
PATIENT = 100
"""A ``maxReceiveCount`` that no test reaches unless it wants to."""


@dataclass(frozen=True)
class SqsServer:
    """What a test does behind the worker's back."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, prefix: str = "") -> str:
        query = f"region={REGION}" + (f"&prefix={prefix}" if prefix else "")
        return f"sqs+http://127.0.0.1:{self.port}/{ACCOUNT}?{query}"

    def ask(self, operation: str, queue: str | None = None, **parameters: Any) -> Any:
        """What the service answers to ``operation``, about the queue of that name."""
        if queue is not None:
            parameters["QueueUrl"] = f"{self.endpoint}/{ACCOUNT}/{queue}"
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        who = f"Credential=testing/20260101/{REGION}/sqs/aws4_request"
        headers = {
            "Authorization": f"AWS4-HMAC-SHA256 {who}, SignedHeaders=host, Signature=0",
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": f"AmazonSQS.{operation}",
        }
        try:
            connection.request("POST", "/", json.dumps(parameters), headers)
            response = connection.getresponse()
            told = response.read()
        finally:
            connection.close()
        assert response.status == 200, told
        return json.loads(told or b"{}")

    def create(self, name: str, *, dead: str | None = None, receives: int = PATIENT) -> None:
        """A queue; with a redrive policy if ``dead`` names the queue for its dead letters."""
        attributes = {}
        if dead is not None:
            arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{dead}"
            policy = {"deadLetterTargetArn": arn, "maxReceiveCount": receives}
            attributes["RedrivePolicy"] = json.dumps(policy)
        self.ask("CreateQueue", QueueName=name, Attributes=attributes)

    def size(self, name: str) -> int:
        """How many messages there are, in whatever state."""
        kinds = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "Delayed", "NotVisible")]
        told = self.ask("GetQueueAttributes", name, AttributeNames=kinds)["Attributes"]
        return sum(int(count) for count in told.values())


@cache
def shared_server() -> SqsServer:
    """Started when it is first needed, ended with the tests."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    atexit.register(end, process)
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if RUNNING in line:
            # It logs every request; somebody has to read that.
            Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
            return SqsServer(int(line.partition(RUNNING)[2].split()[0]))
    raise AssertionError(f"moto's server did not start:\n{''.join(told)}")


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@contextmanager
def aws_environment(folder: Path) -> Iterator[None]:
    """Credentials for the server, and nothing of whoever runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    nothing = str(folder / "no-aws")
    given = {
        **CREDENTIALS,
        "AWS_CONFIG_FILE": nothing,
        "AWS_SHARED_CREDENTIALS_FILE": nothing,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with patch.dict(os.environ, {**kept, **given}, clear=True):
        yield


@contextmanager
def fresh_prefix(
    folder: Path, queues: Sequence[str] = QUEUES, *, receives: int = PATIENT
) -> Iterator[str]:
    """A prefix of the test's own, with ``queues``, whose dead letters go to the queue ``dead``."""
    server = shared_server()
    prefix = f"t{uuid4().hex[:8]}-"
    with aws_environment(folder):
        server.create(f"{prefix}dead")
        for queue in queues:
            server.create(f"{prefix}{queue}", dead=f"{prefix}dead", receives=receives)
        try:
            yield prefix
        finally:
            for queue in ("dead", *queues):
                server.ask("DeleteQueue", f"{prefix}{queue}")


@contextmanager
def fresh_sqs_url(folder: Path) -> Iterator[str]:
    """The URL of empty queues."""
    with fresh_prefix(folder) as prefix:
        yield shared_server().url(prefix)
