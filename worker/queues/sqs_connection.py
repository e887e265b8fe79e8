"""The connection to SQS: calls, batches entry by entry, and in our words what went wrong."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp import ClientError as TransportError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
)
from botocore.parsers import ResponseParserError

from worker.errors import ConfigurationError, StoreError, StoreSchemaError, StoreUnavailable
from worker.queues.sqs_batches import BATCH, MOST_BYTES, SqsRefused, in_batches, nothing, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from worker.queues.sqs_batches import Entry, Failure
    from worker.queues.sqs_url import SqsAddress

__all__ = ["SqsConnection", "SqsQueue"]

LONGEST_POLL_S = 5
"""It could be 20, but a worker that ends waits for its last one: what that gets must go back."""
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
CALLS_AT_ONCE = 20
"""Batches on their way; those that wait for messages come on top."""
TRIES = 3

MISSING = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
DENIED = {"AccessDenied", "AccessDeniedException"}
REFUSED = {
    "AWS.SimpleQueueService.BatchRequestTooLong",
    "BatchRequestTooLong",
    "InvalidMessageContents",
    "InvalidParameterValue",
    "MessageNotInflight",
    "ReceiptHandleIsInvalid",
}
"""What will not be better the next time."""
WORDS = {
    "AccessDenied": "does not permit these credentials what the worker needs",
    "AccessDeniedException": "does not permit these credentials what the worker needs",
    "ExpiredToken": "refused the credentials, which have expired",
    "ExpiredTokenException": "refused the credentials, which have expired",
    "InvalidClientTokenId": "refused the credentials",
    "OverLimit": "has too many messages on their way in this queue",
    "SignatureDoesNotMatch": "refused the credentials",
    "UnrecognizedClientException": "refused the credentials",
}


class SqsQueue(NamedTuple):
    """A queue, as it was found.

    Attributes:
        queue: What the worker calls it.
        name: What SQS calls it.
        dead_letters: The URL of the queue that its redrive policy names.
        receives: How often a message is received before SQS itself takes it there.
        readable: Whether its attributes could be read.
        most_bytes: How long a message may be, with its attributes.
    """

    queue: str
    name: str
    url: str
    dead_letters: str | None = None
    receives: int | None = None
    readable: bool = True
    most_bytes: int = MOST_BYTES


class SqsConnection:
    """Calls the service. Every call has a time limit, and raises nothing but `StoreError`.

    Args:
        address: Where it is.
    """

    def __init__(self, address: SqsAddress) -> None:
        self._address = address
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._calls = asyncio.Semaphore(CALLS_AT_ONCE)
        self._queues: dict[str, SqsQueue] = {}

    async def open(self) -> None:
        """Have a client. It connects when it is first asked.

        Raises:
            ConfigurationError: Nothing says which region it is.
        """
        if self._client is not None:
            return
        config = AioConfig(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=LONGEST_POLL_S + ANSWER_TIMEOUT_S,
            max_pool_connections=4 * CALLS_AT_ONCE,
            retries={"mode": "standard", "total_max_attempts": TRIES},
        )
        try:
            self._client = await self._stack.enter_async_context(
                get_session().create_client(
                    "sqs",
                    region_name=self._address.region,
                    endpoint_url=self._address.endpoint,
                    config=config,
                )
            )
        except NoRegionError as exc:
            raise ConfigurationError(
                [
                    "WORKER_QUEUE_URL: expected a region, in the host's name, as "
                    "?region=eu-central-1, or in AWS_REGION"
                ]
            ) from exc
        except (BotoCoreError, ValueError) as exc:
            raise ConfigurationError([f"WORKER_QUEUE_URL: {exc}"]) from exc

    async def close(self) -> None:
        """Let go of connections. Never raises."""
        self._client = None
        try:
            await self._stack.aclose()
        except (BotoCoreError, TransportError, OSError):
            return

    async def reach(self) -> None:
        """See that the service answers.

        Raises:
            StoreUnavailable: It does not.
        """
        try:
            await self._call("list_queues", MaxResults=1)
        except SqsDenied:
            return  # one need not be allowed to list in order to use

    async def queue(self, queue: str) -> SqsQueue:
        """The queue that the worker calls so; looked at once.

        Raises:
            ConfigurationError: SQS has no such names.
            StoreSchemaError: There is none of that name.
        """
        if queue not in self._queues:
            self._queues[queue] = await self._look_at(queue)
        return self._queues[queue]

    @property
    def queues(self) -> Mapping[str, SqsQueue]:
        """Those that were looked at, by what the worker calls them."""
        return self._queues

    async def _look_at(self, queue: str) -> SqsQueue:
        name = self._address.name_of(queue)
        if self._address.account and self._address.endpoint:
            url = f"{self._address.endpoint}/{self._address.account}/{name}"
        else:
            wanted: Entry = {"QueueName": name}
            if self._address.account:
                wanted["QueueOwnerAWSAccountId"] = self._address.account
            url = str((await self._call("get_queue_url", name, **wanted))["QueueUrl"])
        try:
            found = await self._attributes(url, "RedrivePolicy", "MaximumMessageSize")
        except SqsDenied:
            return SqsQueue(queue, name, url, readable=False)
        known = SqsQueue(
            queue, name, url, most_bytes=int(found.get("MaximumMessageSize", MOST_BYTES))
        )
        redrive = read_policy(found.get("RedrivePolicy"))
        if redrive is None:
            return known
        # It lies in the same account and region.
        dead_letters = f"{url.rpartition('/')[0]}/{redrive[0]}"
        return known._replace(dead_letters=dead_letters, receives=redrive[1])

    async def _attributes(self, url: str, *names: str) -> Mapping[str, str]:
        answer = await self._call("get_queue_attributes", url, AttributeNames=list(names))
        found: Mapping[str, str] = answer.get("Attributes") or {}
        return found

    async def size(self, url: str) -> int:
        """About how many messages are there: waiting, delayed, or on their way."""
        kinds = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "Delayed", "NotVisible")]
        found = await self._attributes(url, *kinds)
        return sum(int(found.get(kind, 0)) for kind in kinds)

    async def receive(self, url: str, *, most: int, wait_s: int, hidden_s: int) -> list[Entry]:
        """Up to ten messages, which nobody else receives for a while."""
        answer = await self._call(
            "receive_message",
            url,
            answer_s=wait_s + ANSWER_TIMEOUT_S,
            MaxNumberOfMessages=min(most, BATCH),
            WaitTimeSeconds=wait_s,
            VisibilityTimeout=hidden_s,
            # Their newer name is not known to every server.
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        found: list[Entry] = answer.get("Messages") or []
        return found

    async def send(self, url: str, entries: Sequence[Entry]) -> dict[int, Failure]:
        """Send messages; what was not taken, by its place in ``entries``."""
        return await self._batches("send_message_batch", url, entries, size_of)

    async def delete(self, url: str, handles: Sequence[str]) -> dict[int, Failure]:
        """Delete messages; what was not, by its place."""
        entries = [{"ReceiptHandle": handle} for handle in handles]
        return await self._batches("delete_message_batch", url, entries)

    async def hide(self, url: str, handles: Sequence[tuple[str, int]]) -> dict[int, Failure]:
        """Have nobody receive each message for so many seconds from now; what failed, by place."""
        entries = [
            {"ReceiptHandle": handle, "VisibilityTimeout": seconds} for handle, seconds in handles
        ]
        return await self._batches("change_message_visibility_batch", url, entries)

    async def _batches(
        self,
        operation: str,
        url: str,
        entries: Sequence[Entry],
        size: Callable[[Entry], int] = nothing,
    ) -> dict[int, Failure]:
        async def call(part: list[Entry]) -> Mapping[str, Any]:
            async with self._calls:
                return await self._call(operation, url, Entries=part)

        return await in_batches(call, entries, size)

    async def _call(
        self,
        operation: str,
        queue: str | None = None,
        *,
        answer_s: float = ANSWER_TIMEOUT_S,
        **parameters: Any,
    ) -> Mapping[str, Any]:
        """One call of the service.

        Args:
            queue: Its URL, or the name of one that is looked for.
        """
        if self._client is None:
            raise StoreUnavailable(f"{self._address.shown} is not open")
        if queue is not None and "QueueName" not in parameters:
            parameters["QueueUrl"] = queue
        try:
            async with asyncio.timeout(answer_s):
                answer: Mapping[str, Any] = await getattr(self._client, operation)(**parameters)
        except ClientError as exc:
            raise self._told(exc, queue) from exc
        except NoCredentialsError as exc:
            raise StoreUnavailable(
                f"{self._address.shown}: no AWS credentials were found; expected "
                f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
            ) from exc
        except TimeoutError as exc:
            raise StoreUnavailable(
                f"{self._address.shown} did not answer within {answer_s:g} s"
            ) from exc
        except (BotoCoreError, TransportError, ResponseParserError, OSError, ValueError) as exc:
            raise StoreUnavailable(f"{self._address.shown} cannot be reached: {exc}") from exc
        return answer

    def _told(self, exc: ClientError, queue: str | None) -> StoreError:
        """What an answer of the service means for the worker."""
        error = exc.response.get("Error", {})
        code, message = str(error.get("Code", "")), str(error.get("Message", ""))
        if code in MISSING and queue is not None:
            return self._missing(queue.rpartition("/")[2])
        said = f"{self._address.shown} {WORDS.get(code, 'cannot do what it was asked')}: "
        said += f"{code}: {message}"
        if code in DENIED:
            return SqsDenied(said)
        return SqsRefused(said) if code in REFUSED else StoreUnavailable(said)

    def _missing(self, name: str) -> StoreSchemaError:
        for queue, known in list(self._queues.items()):
            if known.name == name:
                del self._queues[queue]  # it is looked for anew the next time
        endpoint, region = self._address.endpoint, self._address.region
        plain = endpoint is None or endpoint.endswith(".amazonaws.com")
        where = f" --region {region}" if region else ""
        where += "" if plain else f" --endpoint-url {endpoint}"
        return StoreSchemaError(
            f"{self._address.shown} has no queue {name!r}; create it: "
            f"aws sqs create-queue --queue-name {name}{where}"
        )


class SqsDenied(StoreUnavailable):
    """These credentials are not permitted that."""


def read_policy(policy: str | None) -> tuple[str, int | None] | None:
    """The name of the queue for dead letters, and after how many receives SQS uses it."""
    try:
        said = json.loads(policy or "{}")
        arn, receives = str(said["deadLetterTargetArn"]), said.get("maxReceiveCount")
        return arn.rpartition(":")[2], None if receives is None else int(receives)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
