"""Jobs as messages of SQS, and whatever anyone has sent as jobs.

The body is the parameters. Message attributes say the rest, and only ``JobName`` must be there:

================ ====== ===========================================================================
``JobName``      String The task. Without it, the task is ``""``.
``JobId``        String The job's id. Without it, the message's own.
``JobVersion``   Number Of the parameters' schema; 1 if not said.
``JobOptions``   String What is overridden for this job, a JSON object.
``JobHeaders``   String What the producer hands on, a JSON object.
``JobExpiresAt`` String When it is too late to begin, in ISO 8601 with its distance from UTC.
``JobError``     String In a queue for dead letters: what went wrong, a JSON object.
``JobDelivery``  Number There, too: which delivery of the job it was that it died of.
================ ====== ===========================================================================

Other attributes, which are the sender's own, are headers of the job under their names, as far as
``JobHeaders`` does not say otherwise.

A message that says it wrongly is a job all the same, whose task or parameters nobody can run: a
body that is no JSON becomes the JSON string of its text. So the worker buries it with its cause.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from worker.jobs.declaration import FROM_TASK, with_left_open
from worker.jobs.job import ID, JobId, NewJob
from worker.queues.sqs_batches import MOST_BYTES, size_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.queues.sqs_batches import Entry

__all__ = [
    "Arrived",
    "Receipt",
    "arrived",
    "as_dead_letter",
    "as_message",
    "attributes_size",
    "read_receipt",
]

MOST_ATTRIBUTES = 10
LONGEST_NAME = 200
LONGEST_ERROR = 6 * 1024
OURS = {
    "JobName",
    "JobId",
    "JobVersion",
    "JobOptions",
    "JobHeaders",
    "JobExpiresAt",
    "JobError",
    "JobDelivery",
}
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What SQS takes in no text. In JSON it stands within strings, so it can be escaped."""


class Carried(Protocol):
    """What of a job goes into its message: of a new one, a lease, or a record."""

    @property
    def id(self) -> JobId: ...
    @property
    def task(self) -> str: ...
    @property
    def params(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def options(self) -> str: ...
    @property
    def headers(self) -> str: ...


class Arrived(NamedTuple):
    """A message that was received.

    Attributes:
        job: What it asks for.
        handle: By which SQS knows this receipt of it.
        receives: How often it was received, this time included.
        body: As it was sent.
        others: The attributes that are not ours.
        error: Why it lies in the dead letters, if it says so.
        delivery: Which delivery it died of, if it is a dead letter of ours, or was one.
        source: The name of the queue that SQS moved it from to the dead letters, if it did.
        message: The id that SQS gave the message.
    """

    job: NewJob
    handle: str
    receives: int
    sent_at: datetime
    body: str
    others: dict[str, Any]
    error: str | None
    source: str | None
    delivery: int | None = None
    message: JobId = JobId("")

    def receipt(self, records: str, received_at: datetime, delivery: int = 1) -> Receipt:
        """What a lease of it shall hold."""
        body = None if self.body == self.job.params else self.body
        moment = int(received_at.timestamp())
        return Receipt(records, moment, self.handle, body, self.others, delivery)


class Receipt(NamedTuple):
    """What has to be known at the end of a lease.

    Attributes:
        records: The receipt that the records know this delivery by.
        received_at: Seconds since 1970.
        body: As it was sent, if it is not the parameters.
        delivery: How often the job was delivered, as the records count.
    """

    records: str
    received_at: int
    handle: str
    body: str | None
    others: dict[str, Any]
    delivery: int

    def dump(self) -> str:
        return json.dumps(self, separators=(",", ":"), default=lambda b: b64encode(b).decode())


def read_receipt(text: str) -> Receipt:
    receipt = Receipt(*json.loads(text))
    for attribute in receipt.others.values():
        if "BinaryValue" in attribute:
            attribute["BinaryValue"] = b64decode(attribute["BinaryValue"])
    return receipt


def as_message(job: Carried, *, delay_s: int = 0, expires_at: datetime | None = None) -> Entry:
    """The entry of a batch that sends ``job``."""
    said = {
        "JobName": job.task,
        "JobId": job.id,
        "JobOptions": "" if job.options == "{}" else job.options,
        "JobHeaders": "" if job.headers == "{}" else job.headers,
        "JobExpiresAt": "" if expires_at is None else expires_at.isoformat(),
    }
    attributes = {name: string(value) for name, value in said.items() if value}
    if job.version != 1:
        attributes["JobVersion"] = {"DataType": "Number", "StringValue": str(job.version)}
    return {
        "MessageBody": clean(job.params),
        "MessageAttributes": attributes,
        "DelaySeconds": delay_s,
    }


def as_dead_letter(
    job: Carried,
    *,
    expires_at: datetime | None,
    error: str | None,
    body: str | None,
    others: Mapping[str, Any],
    delivery: int,
) -> Entry:
    """The entry that sends it to the dead letters: as it was, with what went wrong.

    Of more than ten attributes the last foreign ones become headers only, and the error is left
    out if it makes the message too long; the records know it.
    """
    entry = as_message(job, expires_at=expires_at)
    if body is not None:
        entry["MessageBody"] = body
    attributes: dict[str, Any] = entry["MessageAttributes"]
    if FROM_TASK in job.options:  # that is found out again if it comes back
        options = with_left_open(job.options, ())
        attributes.pop("JobOptions")
        attributes |= {} if options == "{}" else {"JobOptions": string(options)}
    attributes["JobDelivery"] = {"DataType": "Number", "StringValue": str(delivery)}
    told = {} if error is None else {"JobError": string(shortened(error))}
    room = MOST_ATTRIBUTES - len(attributes) - len(told)
    kept = dict(sorted(others.items())[:room])
    own = {name: value for name, value in json.loads(job.headers).items() if name not in kept}
    if not own:
        attributes.pop("JobHeaders", None)
    elif kept:
        attributes["JobHeaders"] = string(json.dumps(own, separators=(",", ":")))
    attributes |= kept
    if told and size_of(entry) + LONGEST_ERROR < MOST_BYTES:
        attributes |= told
    return entry


def arrived(message: Entry, queue: str) -> Arrived:
    """Read what was received. It never fails, whatever anyone has sent."""
    attributes: dict[str, Any] = message.get("MessageAttributes") or {}
    system: dict[str, Any] = message.get("Attributes") or {}
    said = {name: text(attributes.get(name)) for name in OURS}
    sent_at = datetime.fromtimestamp(number(system.get("SentTimestamp"), 0) / 1000, UTC)
    task = said["JobName"] if len(said["JobName"]) <= LONGEST_NAME else ""
    others = {name: value for name, value in attributes.items() if name not in OURS}
    job = NewJob(
        id=JobId(said["JobId"] if ID.fullmatch(said["JobId"]) else str(message["MessageId"])),
        task=task,
        queue=queue,
        params=params_in(message.get("Body") or ""),
        version=min(max(1, number(said["JobVersion"], 1)), 2**31 - 1),
        expires=from_now(said["JobExpiresAt"]),
        options=object_in(said["JobOptions"]),
        headers=with_others(object_in(said["JobHeaders"]), others),
    )
    return Arrived(
        job=job,
        handle=str(message["ReceiptHandle"]),
        receives=number(system.get("ApproximateReceiveCount"), 1),
        sent_at=sent_at,
        body=message.get("Body") or "",
        others={
            name: {
                key: value[key]
                for key in ("DataType", "StringValue", "BinaryValue")
                if key in value
            }
            for name, value in others.items()
        },
        error=said["JobError"] or None,
        source=str(system.get("DeadLetterQueueSourceArn") or "").rpartition(":")[2] or None,
        delivery=number(said["JobDelivery"], 0) or None,
        message=JobId(str(message["MessageId"])),
    )


def with_others(headers: str, others: Mapping[str, Any]) -> str:
    """The headers, and the sender's own attributes by their names; of a binary one its base64."""
    if not others:
        return headers
    texts = {}
    for name, value in others.items():
        binary = value.get("BinaryValue")
        texts[name] = text(value) if binary is None else b64encode(binary).decode()
    return json.dumps({**texts, **json.loads(headers)}, separators=(",", ":"))


def attributes_size(entry: Entry) -> int:
    """How many bytes all but the body has."""
    return size_of({**entry, "MessageBody": ""})


def string(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": clean(value)}


def clean(json_text: str) -> str:
    return FORBIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json_text)


def shortened(error: str) -> str:
    """An error, a JSON object with ``type`` and ``message``, short enough for an attribute."""
    if len(error.encode()) <= LONGEST_ERROR:
        return error
    told = json.loads(error)
    message = str(told.get("message", ""))[: LONGEST_ERROR // 12]  # "\\ud83d\\ude00" is one letter
    return json.dumps({"type": str(told.get("type", ""))[:LONGEST_NAME], "message": f"{message}…"})


def text(attribute: Any) -> str:
    """The value of an attribute of ours; nothing for one that is no text."""
    value = attribute.get("StringValue") if isinstance(attribute, dict) else None
    return value if isinstance(value, str) else ""


def number(value: Any, default: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return default


def params_in(body: str) -> str:
    """The body, if it is any JSON value, or else the JSON string of its text."""
    try:
        json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError):
        return json.dumps(body)
    return body


def refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def object_in(said: str) -> str:
    try:
        return said if isinstance(json.loads(said or "{}"), dict) and said else "{}"
    except (ValueError, RecursionError):
        return "{}"


def from_now(said: str) -> timedelta | None:
    try:
        return datetime.fromisoformat(said) - datetime.now(UTC)
    except (ValueError, TypeError, OverflowError):
        return None  # nothing said, or no such moment
