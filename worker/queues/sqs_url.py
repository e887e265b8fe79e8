"""What an ``sqs://`` URL says: where the service is, whose queues, and how they are named."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SqsAddress", "read_address"]

RECORDED = "sqs/"
SCHEMES = {"sqs": "https", "sqs+https": "https", "sqs+http": "http"}
EXPECTED = (
    "expected sqs://sqs.REGION.amazonaws.com/ACCOUNT?prefix=shop-, or for another server "
    "sqs+http://host:port/ACCOUNT?region=us-east-1"
)
ACCOUNT = re.compile(r"[A-Za-z0-9_-]{1,100}")
PREFIX = re.compile(r"[A-Za-z0-9_-]{1,60}")
REGION = re.compile(r"[a-z0-9-]{1,40}")
NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
IN_HOST = re.compile(r"(?:^|\.)sqs(?:-fips)?\.([a-z]{2}(?:-[a-z]+)+-\d+)\.")
"""Also in the names of endpoints in a network of one's own."""


@dataclass(frozen=True, slots=True)
class SqsAddress:
    """Where queues are found.

    Attributes:
        endpoint: Of the service; ``None`` for the one that the AWS environment means.
        region: ``None`` for that of the AWS environment.
        account: The first part of a queue's path; ``None`` to ask the service.
        prefix: Of the names of all queues.
        shown: For people to see.
    """

    endpoint: str | None
    region: str | None
    account: str | None
    prefix: str
    shown: str

    def name_of(self, queue: str) -> str:
        """What SQS calls a queue.

        Raises:
            ConfigurationError: SQS has no such names, or it is a FIFO queue's.
        """
        name = f"{self.prefix}{queue}"
        if name.endswith(".fifo"):
            raise ConfigurationError(
                [
                    f"queue {name!r} is a FIFO queue, where a job cannot be delayed by itself and "
                    f"a job that is retried is taken for a duplicate; expected a standard queue"
                ]
            )
        if not NAME.fullmatch(name):
            raise ConfigurationError(
                [f"queue {name!r}: SQS takes up to 80 letters, digits, '-' and '_'"]
            )
        return name

    def recorded(self, queue: str) -> str:
        """What the records call a queue."""
        return f"{RECORDED}{self.prefix}{queue}"

    def queue_of(self, recorded: str) -> str | None:
        """The queue that the records call so; ``None`` if it is not one of these."""
        ours = f"{RECORDED}{self.prefix}"
        return recorded.removeprefix(ours) if recorded.startswith(ours) else None


def read_address(url: str, environment: Mapping[str, str] | None = None) -> SqsAddress:
    """Take the URL apart.

    Raises:
        ConfigurationError: It is none of these. The message does not repeat it.
    """
    try:
        parts = urlsplit(url)
        host, port, path = parts.hostname or "", parts.port, parts.path.strip("/")
        said = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as exc:
        raise problem(EXPECTED) from exc
    scheme = SCHEMES.get(parts.scheme)
    options = dict(said)
    if scheme is None or parts.fragment or len(said) != len(options):
        raise problem(EXPECTED)
    if parts.username is not None or parts.password is not None:
        raise problem(
            "expected no credentials in the URL; SQS takes them from the AWS environment, such as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not host and (port or path or parts.scheme != "sqs"):
        raise problem(EXPECTED)
    if unknown := sorted(options.keys() - {"prefix", "region"}):
        raise problem(
            f"expected in its query only prefix and region, got {', '.join(map(repr, unknown))}"
        )
    prefix, region = options.get("prefix", ""), options.get("region") or region_in(host)
    if prefix and not PREFIX.fullmatch(prefix):
        raise problem("expected a prefix of up to 60 letters, digits, '-' and '_'")
    if region and not REGION.fullmatch(region):
        raise problem("expected a region such as eu-central-1")
    if path and not ACCOUNT.fullmatch(path):
        raise problem(
            "expected an account such as 123456789012 for its path; no name of a queue, as each "
            "task names its own"
        )
    aws = os.environ if environment is None else environment
    shown = host if port is None else f"{host}:{port}"
    return SqsAddress(
        endpoint=f"{scheme}://{bracketed(host, shown)}" if host else None,
        region=region or aws.get("AWS_REGION") or None,
        account=path or None,
        prefix=prefix,
        shown=f"{parts.scheme}://{bracketed(host, shown)}{'/' + path if path else ''}",
    )


def region_in(host: str) -> str | None:
    found = IN_HOST.search(host)
    return found[1] if found else None


def bracketed(host: str, shown: str) -> str:
    """An IPv6 address as a URL has it."""
    return shown.replace(host, f"[{host}]", 1) if ":" in host else shown


def problem(expected: str) -> ConfigurationError:
    return ConfigurationError([f"WORKER_QUEUE_URL: {expected}"])
