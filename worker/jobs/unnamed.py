"""What a message is that names no task: most likely another service's envelope around a job."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["what_came"]

SNS_KINDS = {"Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"}


def what_came(params: str) -> str:
    """What such a message holds, and what to do about it.

    Args:
        params: Its body, or the JSON string of a body that is not JSON.
    """
    value: Any = json.loads(params)
    if isinstance(value, str):
        return "a text"
    if not isinstance(value, dict):
        return f"a JSON {'array' if isinstance(value, list) else 'value'}"
    if value.get("Type") in SNS_KINDS and "TopicArn" in value:
        return (
            "an SNS envelope; enable raw message delivery for the subscription, so that the "
            "publisher's message attributes arrive"
        )
    if "detail-type" in value and "detail" in value:
        return (
            "an EventBridge event, which carries no message attributes; send the job from a Lambda "
            "function instead, for example"
        )
    if sources := sources_of(value):
        return (
            f"an event notification of {sources}, which carries no message attributes; send the "
            "job from a Lambda function instead, for example"
        )
    if "specversion" in value and "type" in value:
        return "a CloudEvents event"
    return "a JSON object without that attribute"


def sources_of(value: dict[str, Any]) -> str:
    """The AWS service that sent an event notification, such as ``aws:s3``."""
    if value.get("Event") == "s3:TestEvent":
        return "aws:s3 (its test event)"
    records = value.get("Records")
    if not isinstance(records, list):
        return ""
    found = {
        str(record.get("eventSource") or record.get("EventSource"))[:50]
        for record in records
        if isinstance(record, dict) and (record.get("eventSource") or record.get("EventSource"))
    }
    return ", ".join(sorted(found))
