"""What the URL of SQS says, and how jobs and messages become each other."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.errors import ConfigurationError
from worker.jobs.job import JobId, NewJob
from worker.queues.opening import make_jobs
from worker.queues.sqs_batches import MOST_BYTES, nothing, parts, size_of
from worker.queues.sqs_messages import arrived, as_dead_letter, as_message, read_receipt
from worker.queues.sqs_url import SqsAddress, read_address

MOMENT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def received(body: str = "{}", **attributes: Any) -> dict[str, Any]:
    """A message as SQS hands it out; attributes that are texts are Strings."""
    return {
        "MessageId": "0b54d1c5-9f3e-4a7e-8d4e-1f0a",
        "ReceiptHandle": "handle",
        "Body": body,
        "Attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": "1795252908830"},
        "MessageAttributes": {
            name: {"DataType": "String", "StringValue": value} if isinstance(value, str) else value
            for name, value in attributes.items()
        },
    }


# The URL


def test_the_url_names_endpoint_region_account_and_prefix() -> None:
    url = "sqs://sqs.eu-central-1.amazonaws.com/123456789012?prefix=shop-"
    assert read_address(url, {"AWS_REGION": "us-west-2"}) == SqsAddress(
        endpoint="https://sqs.eu-central-1.amazonaws.com",
        region="eu-central-1",
        account="123456789012",
        prefix="shop-",
        shown="sqs://sqs.eu-central-1.amazonaws.com/123456789012",
    )
    address = read_address("sqs+http://127.0.0.1:9324/000000000000?region=us-east-1", {})
    assert (address.endpoint, address.region) == ("http://127.0.0.1:9324", "us-east-1")
    assert (address.account, address.prefix) == ("000000000000", "")
    address = read_address("sqs+https://[::1]:9324?region=x", {})
    assert (address.endpoint, address.account) == ("https://[::1]:9324", None)


def test_without_a_host_the_aws_environment_says_where_it_is() -> None:
    address = read_address("sqs://?prefix=shop-", {"AWS_REGION": "eu-west-1"})
    assert (address.endpoint, address.region, address.account) == (None, "eu-west-1", None)
    assert read_address("sqs://", {}).region is None


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("sqs-fips.us-east-2.amazonaws.com", "us-east-2"),
        ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("vpce-0ab-1cd.sqs.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
        ("queue.example.com", None),
    ],
)
def test_the_region_is_found_in_the_host(host: str, region: str | None) -> None:
    assert read_address(f"sqs://{host}/1", {}).region == region


@pytest.mark.parametrize(
    "url",
    [
        "sqs+ftp://host/1",
        "sqs+http:///1",
        "sqs:///123456789012",
        "sqs://host/123456789012/billing",
        "sqs://host:port/1",
        "sqs://key:s3cret@sqs.eu-central-1.amazonaws.com/1",
        "sqs://host/1?prefix=a.b",
        "sqs://host/1?prefix=a&prefix=b",
        "sqs://host/1?region=s3cret!",
        "sqs://host/1?secret=s3cret",
        "sqs://host/1#s3cret",
    ],
)
def test_a_url_that_is_none_of_these_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="WORKER_QUEUE_URL: expected") as caught:
        make_jobs(url)
    assert "s3cret" not in str(caught.value)


def test_sqs_cannot_keep_its_own_records() -> None:
    with pytest.raises(ConfigurationError, match="keep the records of SQS"):
        make_jobs("sqs://sqs.eu-central-1.amazonaws.com", records_url="sqs://host?region=x")


@pytest.mark.parametrize(
    ("queue", "why"), [("orders.fifo", "FIFO"), ("a.b", "letters, digits"), ("q" * 80, "80")]
)
def test_a_queue_that_sqs_cannot_have_is_refused(queue: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        read_address("sqs://host/1?prefix=p-&region=x", {}).name_of(queue)


# Jobs and messages


def test_a_job_is_the_same_when_it_arrives() -> None:
    job = NewJob(
        JobId("invoice-7"),
        "billing.send",
        "billing",
        params='{"a": "\N{SNOWMAN}", "b": [1.50]}',
        version=3,
        options='{"max_retries":2}',
        headers='{"traceparent":"00-abc"}',
    )
    entry = as_message(job, delay_s=5, expires_at=MOMENT)
    assert entry["DelaySeconds"] == 5
    message = received(entry["MessageBody"], **entry["MessageAttributes"])
    one = arrived(message, "billing")
    assert one.job.expires is not None
    assert one.job._replace(expires=None) == job
    assert abs(MOMENT - datetime.now(UTC) - one.job.expires) < timedelta(seconds=5)
    assert (one.handle, one.receives, one.others, one.error) == ("handle", 3, {}, None)


def test_a_message_of_a_stranger_is_a_job_with_the_messages_id() -> None:
    one = arrived(received('{"param": "ololo"}', JobName="example:job"), "shared")
    assert one.job == NewJob(
        JobId("0b54d1c5-9f3e-4a7e-8d4e-1f0a"), "example:job", "shared", '{"param": "ololo"}'
    )


@pytest.mark.parametrize(
    ("body", "params"),
    [
        ("", '""'),
        ("hello", '"hello"'),
        ('{"a": NaN}', '"{\\"a\\": NaN}"'),
        ("[" * 100_000, json.dumps("[" * 100_000)),
        ("1" * 10_000, json.dumps("1" * 10_000)),
        ("[1, 2]", "[1, 2]"),
        ('"text"', '"text"'),
        ("null", "null"),
    ],
)
def test_a_body_that_is_no_object_is_a_job_that_nobody_can_run(body: str, params: str) -> None:
    one = arrived(received(body, JobName="ping"), "default")
    assert one.job.params == params
    assert not isinstance(json.loads(one.job.params), dict)
    receipt = read_receipt(one.receipt("7", MOMENT).dump())
    assert (receipt.body if receipt.body is not None else params) == body


@pytest.mark.parametrize(
    ("attributes", "task"),
    [
        ({}, ""),
        ({"JobName": ""}, ""),
        ({"JobName": "x" * 201}, ""),
        ({"JobName": {"DataType": "Binary", "BinaryValue": b"ping"}}, ""),
        ({"JobName": {"DataType": "Number", "StringValue": "7"}}, "7"),
        ({"JobName": "ping", "JobId": "no id!"}, "ping"),
        ({"JobName": "ping", "JobVersion": "third"}, "ping"),
        ({"JobName": "ping", "JobVersion": "-1"}, "ping"),
        ({"JobName": "ping", "JobOptions": "[1]", "JobHeaders": "{"}, "ping"),
        ({"JobName": "ping", "JobExpiresAt": "tomorrow"}, "ping"),
        ({"JobName": "ping", "JobExpiresAt": "2026-11-21T09:30:00"}, "ping"),
    ],
)
def test_attributes_that_make_no_sense_are_passed_over(
    attributes: dict[str, Any], task: str
) -> None:
    job = arrived(received(**attributes), "default").job
    assert job == NewJob(JobId("0b54d1c5-9f3e-4a7e-8d4e-1f0a"), task, "default")


def test_what_sqs_takes_in_no_text_is_escaped() -> None:
    job = NewJob(JobId("1"), "ping", "default", '{"a":"\ufffe\ud800\x7f\U0001f600"}')
    body = as_message(job)["MessageBody"]
    assert body == '{"a":"\\ufffe\\ud800\x7f\U0001f600"}'
    assert json.loads(body) == json.loads(job.params)


def test_a_dead_letter_is_what_arrived_with_its_error() -> None:
    others = {
        "Blob": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        "Count": {"DataType": "Number", "StringValue": "7"},
    }
    one = arrived(received("hello", JobName="ping", **others), "default")
    receipt = read_receipt(one.receipt("7", MOMENT).dump())
    error = '{"type":"E","message":"no"}'
    letter = as_dead_letter(
        one.job, expires_at=None, error=error, body=receipt.body, others=receipt.others, delivery=3
    )
    assert letter["MessageBody"] == "hello"
    attributes = letter["MessageAttributes"]
    assert {name: attributes[name] for name in others} == others
    assert attributes["JobError"]["StringValue"] == error
    assert attributes["JobId"]["StringValue"] == one.job.id
    again = arrived({**received("hello"), "MessageAttributes": attributes}, "default")
    assert (again.job, again.error, again.delivery) == (one.job, error, 3)


def test_a_dead_letter_has_room_for_the_longest_of_errors_and_attributes() -> None:
    others = {f"Other{n}": {"DataType": "String", "StringValue": "x"} for n in range(9)}
    one = arrived(received("{}", JobName="ping", **others), "default")
    error = json.dumps({"type": "E", "message": "\N{SNOWMAN}" * 100_000})
    letter = as_dead_letter(
        one.job, expires_at=None, error=error, body=None, others=others, delivery=1
    )
    attributes = letter["MessageAttributes"]
    assert len(attributes) == 10
    assert {"JobName", "JobId", "JobError", "JobDelivery"} < set(attributes)
    assert json.loads(attributes["JobError"]["StringValue"])["type"] == "E"
    assert size_of(letter) < 8 * 1024
    full = as_dead_letter(
        one.job, expires_at=None, error=error, body="x" * MOST_BYTES, others={}, delivery=1
    )
    assert "JobError" not in full["MessageAttributes"]


def test_a_batch_has_ten_entries_and_a_messages_worth_of_bytes() -> None:
    entries = [{"MessageBody": "x" * 400_000} for _ in range(5)]
    assert parts(entries, range(5), size_of) == [[0, 1], [2, 3], [4]]
    assert [len(part) for part in parts([{}] * 25, range(25), nothing)] == [10, 10, 5]
    assert parts([{}] * 25, [3, 17], nothing) == [[3, 17]]
    assert parts([], [], nothing) == []
