"""What is SQS's own: any client's messages, visibility, redrive, and what goes wrong there."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from tests.support.jobs import (
    LONG,
    QUEUE,
    SECOND,
    SHORT,
    ZERO,
    back,
    dead,
    ended,
    fresh_queue_url,
    get,
    lease_all,
    lease_now,
    lease_one,
    new,
    passed,
)
from tests.support.processes import worker_command
from tests.support.servers import refused_port
from tests.support.sqs_meddler import Meddler, meddler
from tests.support.sqs_server import REGION, SqsServer, fresh_prefix, shared_server
from tests.support.waiting import LONGEST_S, wait_until
from worker.errors import ConfigurationError, NotSupported, StoreSchemaError, StoreUnavailable
from worker.jobs.declaration import left_open
from worker.jobs.job import Enqueued, Held, JobId, JobQuery, QueueCount, Requeued, Unique
from worker.model import State
from worker.queues.memory import MemoryJobs
from worker.queues.opening import make_jobs
from worker.queues.sqs import SqsJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from worker.jobs.job import Job, Lease

DEAD = "dead"


class Bench:
    """Queues of the test's own: ``default``, whose dead letters go to ``dead``."""

    def __init__(self, prefix: str, records: MemoryJobs) -> None:
        self.prefix = prefix
        self.records = records
        self.server: SqsServer = shared_server()
        self.url = self.server.url(prefix)

    def ask(self, operation: str, queue: str = QUEUE, **parameters: Any) -> Any:
        return self.server.ask(operation, f"{self.prefix}{queue}", **parameters)

    def size(self, queue: str = QUEUE) -> int:
        return self.server.size(f"{self.prefix}{queue}")

    def send(self, body: str = "{}", queue: str = QUEUE, **attributes: str) -> str:
        """Send a message as any client would; its id."""
        said = {
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        }
        sent = self.ask("SendMessage", queue, MessageBody=body, MessageAttributes=said)
        return str(sent["MessageId"])

    def receive(self, queue: str = QUEUE, hidden_s: int = 0) -> list[dict[str, Any]]:
        """Receive messages as any client would."""
        told = self.ask(
            "ReceiveMessage",
            queue,
            MaxNumberOfMessages=10,
            VisibilityTimeout=hidden_s,
            MessageAttributeNames=["All"],
        )
        return list(told.get("Messages", []))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with fresh_prefix(tmp_path, [QUEUE]) as prefix:
        yield Bench(prefix, MemoryJobs())


@asynccontextmanager
async def opened(
    url: str, records: MemoryJobs, queues: Sequence[str] = ()
) -> AsyncIterator[SqsJobs]:
    store = SqsJobs(url, records, queues=queues)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(bench: Bench) -> AsyncIterator[SqsJobs]:
    async with opened(bench.url, bench.records) as store:
        yield store


@pytest.fixture
async def between(bench: Bench) -> AsyncIterator[Meddler]:
    """The proxy that `meddled` goes through."""
    async with meddler() as proxy:
        yield proxy


@pytest.fixture
async def meddled(bench: Bench, between: Meddler) -> AsyncIterator[SqsJobs]:
    async with opened(between.url(bench.prefix), bench.records) as store:
        yield store


async def aws(*words: str) -> str:
    """What the real command line answers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-m", "awscli", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


# Any client can send a job


async def test_a_message_of_the_aws_command_is_a_job(bench: Bench, store: SqsJobs) -> None:
    endpoint = ["--endpoint-url", bench.server.endpoint, "--region", REGION]
    queue = json.loads(
        await aws("sqs", "get-queue-url", "--queue-name", f"{bench.prefix}{QUEUE}", *endpoint)
    )
    name = '{"JobName":{"DataType":"String","StringValue":"example:job"}}'
    sent = await aws(
        *("sqs", "send-message", "--queue-url", queue["QueueUrl"]),
        *("--message-body", '{"param": "value"}', "--message-attributes", name, *endpoint),
    )
    lease = await lease_one(store)
    assert (lease.task, lease.params) == ("example:job", '{"param": "value"}')
    assert lease.id == json.loads(sent)["MessageId"]
    assert (lease.deliveries, lease.attempts, lease.losses) == (1, 0, 0)
    assert (await get(store, lease.id)).state is State.STARTED
    await store.settle([ended(lease, result="7")])
    job = await store.wait(lease.id, LONG)
    assert job is not None
    assert (job.queue, job.state, job.result) == (QUEUE, State.SUCCESS, "7")
    assert bench.size() == 0


async def test_a_worker_runs_what_others_have_sent_and_says_which_queue_is_missing(
    bench: Bench, tmp_path: Path
) -> None:
    environment = greeting_worker(bench, tmp_path)
    sent = bench.send('{"param": "value"}', JobName="example:job")
    start = ("start", "--no-schedules", "--burst")
    code, _, log = await worker_command(*start, environment=environment, cwd=tmp_path)
    assert code == 0, log
    assert "job.refused" not in log
    job = await recorded(bench, tmp_path, sent)
    assert (job.state, job.result) == (State.SUCCESS, '"VALUE"')
    assert bench.size() == 0
    (tmp_path / "queues.toml").write_text("[missing]\n[default]\n[absent]\n")
    environment["WORKER_QUEUES_FILE"] = "queues.toml"
    named = ("--queues", "missing,default,absent")
    code, _, log = await worker_command(*start, *named, environment=environment, cwd=tmp_path)
    assert code == 78, log
    for name in ("missing", "absent"):
        assert f"aws sqs create-queue --queue-name {bench.prefix}{name}" in log
    assert f"queue-name {bench.prefix}default" not in log


async def test_the_command_that_a_missing_queue_names_creates_it(bench: Bench) -> None:
    async with opened(bench.url, bench.records) as store:
        for missing in (store.enqueue([new(queue="fresh")]), lease_now(store, queue="fresh")):
            with pytest.raises(StoreSchemaError, match="aws sqs create-queue") as caught:
                await missing
        command = str(caught.value).partition("create it: ")[2]
        await aws(*shlex.split(command)[1:])
        await store.enqueue([new(queue="fresh")])
        assert len(await lease_now(store, queue="fresh")) == 1
    bench.ask("DeleteQueue", "fresh")
    with pytest.raises(StoreSchemaError, match="has no queue"):
        async with opened(bench.url, bench.records, [QUEUE, "fresh"]):
            pass


async def test_a_queue_that_is_deleted_meanwhile_is_missed(bench: Bench, store: SqsJobs) -> None:
    bench.server.create(f"{bench.prefix}brief")
    assert await lease_now(store, queue="brief") == []
    bench.ask("DeleteQueue", "brief")
    for _ in range(2):
        with pytest.raises(StoreSchemaError, match="create-queue"):
            await lease_now(store, queue="brief")


async def test_without_an_account_the_service_is_asked_for_the_queue(bench: Bench) -> None:
    url = f"sqs+http://127.0.0.1:{bench.server.port}?region={REGION}&prefix={bench.prefix}"
    async with opened(url, bench.records) as store:
        await store.enqueue([new()])
        await store.settle([dead(await lease_one(store))])
        assert (bench.size(), bench.size(DEAD)) == (0, 1)
        with pytest.raises(StoreSchemaError, match="create-queue"):
            await lease_now(store, queue="missing")


async def test_a_job_id_that_is_sent_twice_is_one_job(bench: Bench, store: SqsJobs) -> None:
    for _ in range(3):
        bench.send(JobName="ping", JobId="invoice-7")
    (lease,) = await lease_now(store)
    assert lease.id == "invoice-7"
    assert await store.enqueue([new(id="invoice-7")]) == [Enqueued(lease.id, created=False)]
    await store.settle([ended(lease)])
    assert await lease_now(store) == []
    bench.send(JobName="ping", JobId="invoice-7")
    assert await lease_now(store) == []
    assert bench.size() == 2  # hidden for as long as the first one was leased


@pytest.mark.parametrize(
    ("body", "attributes", "task", "params"),
    [
        ("{}", {}, "", "{}"),
        ("no JSON", {"JobName": "ping"}, "ping", '"no JSON"'),
        ("[1]", {"JobName": "ping", "Other": "x"}, "ping", "[1]"),
    ],
)
async def test_a_message_that_nobody_can_run_is_delivered_and_can_be_buried(
    bench: Bench,
    store: SqsJobs,
    body: str,
    attributes: dict[str, str],
    task: str,
    params: str,
) -> None:
    bench.send(body, **attributes)
    await store.enqueue([new("fine")])
    leases = {lease.task: lease for lease in await lease_now(store)}
    assert leases.keys() == {task, "fine"}
    assert leases[task].params == params
    assert await store.settle([dead(leases[task])]) == [True]
    (letter,) = bench.receive(DEAD)
    assert letter["Body"] == body
    said = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
    assert said.pop("JobError") == '{"type":"E","message":"no"}'
    assert said.pop("JobId") == leases[task].id
    assert said.pop("JobDelivery") == "1"
    assert said == attributes


async def test_receives_count_as_attempts_of_a_job_that_the_records_do_not_know(
    bench: Bench, store: SqsJobs
) -> None:
    bench.send(JobName="ping")
    for _ in range(2):
        assert len(bench.receive()) == 1
    lease = await lease_one(store)
    assert (lease.deliveries, lease.attempts) == (3, 2)
    await store.settle([ended(lease, State.RETRY)])
    again = await lease_one(store)
    assert (again.deliveries, again.attempts) == (2, 3)  # the records know it now


async def test_a_job_says_everything_to_workers_with_other_records(
    bench: Bench, store: SqsJobs
) -> None:
    job = new(
        "send", params='{"n":1}', version=2, options='{"a":1}', headers='{"b":"2"}', expires=LONG
    )
    await store.enqueue([job])
    async with opened(bench.url, MemoryJobs()) as other:
        lease = await lease_one(other)
    for name in ("id", "task", "queue", "params", "version", "headers"):
        assert getattr(lease, name) == getattr(job, name), name
    left_to_the_task = ["unique"]  # these records cannot know whether the producer has applied it
    assert json.loads(lease.options) == {"a": 1, "from_task": left_to_the_task}
    assert lease.expires_at is not None
    assert abs(lease.expires_at - lease.created_at - LONG) < 5 * SECOND


# Visibility


async def test_an_extended_lease_keeps_its_message_hidden(bench: Bench, store: SqsJobs) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store, ttl=SHORT)
    assert await store.extend([lease], LONG) == [Held.YES]
    await passed(1.2 * SECOND)
    assert bench.receive() == []
    assert await store.settle([back(lease)]) == [True]
    assert len(bench.receive()) == 1


async def test_a_message_that_shows_up_while_its_job_is_leased_is_hidden_again(
    bench: Bench, store: SqsJobs
) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    assert bench.receive() == []
    # As after the 12 hours for which SQS hides a message at most.
    receipt = json.loads(lease.receipt)[2]
    bench.ask("ChangeMessageVisibility", ReceiptHandle=receipt, VisibilityTimeout=0)
    assert await lease_now(store) == []
    assert bench.receive() == []
    assert await store.extend([lease], LONG) == [Held.YES]
    assert await store.settle([ended(lease)]) == [True]


async def test_a_job_can_wait_for_longer_than_sqs_hides_a_message(
    bench: Bench, store: SqsJobs
) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    assert await store.settle([ended(lease, State.RETRY, delay=timedelta(days=3))]) == [True]
    assert bench.receive() == []
    bench.ask(
        "ChangeMessageVisibility",
        ReceiptHandle=json.loads(lease.receipt)[2],
        VisibilityTimeout=0,
    )
    assert await lease_now(store) == []  # it is not due
    assert bench.receive() == []
    assert bench.size() == 1


async def test_many_messages_come_by_several_calls(
    bench: Bench, between: Meddler, meddled: SqsJobs
) -> None:
    await meddled.enqueue([new() for _ in range(25)])
    assert [len(call["Entries"]) for call in between.calls["SendMessageBatch"]] == [10, 10, 5]
    leases = await lease_now(meddled, 25)
    assert len(leases) == 25
    assert len(between.calls["ReceiveMessage"]) == 3
    await meddled.extend(leases, LONG)
    assert len(between.calls["ChangeMessageVisibilityBatch"]) == 3
    await meddled.settle([ended(lease) for lease in leases])
    assert len(between.calls["DeleteMessageBatch"]) == 3
    assert bench.size() == 0


async def test_who_waits_asks_once(between: Meddler, meddled: SqsJobs) -> None:
    assert await meddled.lease(QUEUE, limit=50, ttl=LONG, wait=SECOND, worker="one") == []
    (call,) = between.calls["ReceiveMessage"]
    assert (call["WaitTimeSeconds"], call["MaxNumberOfMessages"]) == (1, 10)


# Dead letters


async def test_a_dead_letter_lies_where_the_redrive_policy_says(
    bench: Bench, store: SqsJobs
) -> None:
    bench.send('{"n":1}', JobName="ping", Trace="abc")
    lease = await lease_one(store)
    await store.settle([dead(lease)])
    assert (bench.size(), bench.size(DEAD)) == (0, 1)
    (job,) = await store.find(JobQuery(dead=True))
    assert (job.id, job.queue, job.dead) == (lease.id, QUEUE, True)
    assert await store.retry([job.id]) == [Requeued.DONE]
    assert (bench.size(), bench.size(DEAD)) == (1, 0)
    again = await lease_one(store)
    assert (again.id, again.attempts) == (lease.id, 0)
    await store.settle([dead(again)])
    assert await store.drop([job.id]) == [Requeued.DONE]
    assert (bench.size(), bench.size(DEAD)) == (0, 0)
    assert await store.find(JobQuery(dead=True)) == []


async def test_only_the_letters_of_jobs_that_are_named_are_deleted(
    bench: Bench, store: SqsJobs
) -> None:
    jobs = [new() for _ in range(4)]
    await store.enqueue(jobs)
    await store.settle([dead(lease) for lease in await lease_now(store)])
    assert bench.size(DEAD) == 4
    assert await store.drop([jobs[2].id]) == [Requeued.DONE]
    left = {m["MessageAttributes"]["JobId"]["StringValue"] for m in bench.receive(DEAD)}
    assert left == {jobs[number].id for number in (0, 1, 3)}


async def test_what_sqs_moved_by_itself_is_found_retried_and_dropped(tmp_path: Path) -> None:
    with fresh_prefix(tmp_path, [QUEUE], receives=2) as prefix:
        bench = Bench(prefix, MemoryJobs())
        async with opened(bench.url, bench.records) as store:
            known = new()
            await store.enqueue([known])
            await lease_one(store, ttl=SHORT)  # and its worker dies
            strange = [bench.send('{"n":1}', JobName="ping") for _ in range(2)]
            # Someone receives them again and again, and does nothing.
            await wait_until(
                lambda: not bench.receive() and bench.size(DEAD) == 3, "all three are moved"
            )
            assert QueueCount(QUEUE, "", State.FAILURE, 3, 3) in await store.counts()
            found = {job.id: job for job in await store.find(JobQuery(dead=True))}
            assert found.keys() == {known.id, *strange}
            for job in found.values():
                assert (job.state, job.queue, job.dead) == (State.FAILURE, QUEUE, True)
                error = json.loads(job.error or "{}")
                assert error["type"] == "MaxReceiveCount"
                assert "after 2 receives" in error["message"]
            one, other = map(JobId, strange)
            assert await store.retry([known.id, one]) == [Requeued.DONE] * 2
            assert await store.drop([other]) == [Requeued.DONE]
            assert (bench.size(), bench.size(DEAD)) == (2, 0)
            assert {lease.id for lease in await lease_now(store)} == {known.id, one}


async def test_letters_of_jobs_that_ended_well_are_deleted(bench: Bench, store: SqsJobs) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.settle([ended(lease)])
    bench.send(queue=DEAD, JobName="ping", JobId=lease.id)
    assert await store.find(JobQuery(dead=True, queue=QUEUE)) == []
    assert bench.size(DEAD) == 0


async def test_without_a_redrive_policy_the_records_keep_dead_letters(
    bench: Bench, store: SqsJobs
) -> None:
    bench.server.create(f"{bench.prefix}plain")
    await store.enqueue([new(queue="plain")])
    lease = await lease_one(store, queue="plain")
    await store.settle([dead(lease)])
    (job,) = await store.find(JobQuery(dead=True))
    assert job.id == lease.id
    assert await store.retry([job.id]) == [Requeued.DONE]
    assert (await lease_one(store, queue="plain")).id == job.id
    bench.ask("DeleteQueue", "plain")


async def test_who_opens_it_is_told_what_endangers_jobs(bench: Bench) -> None:
    bench.server.create(f"{bench.prefix}plain")
    bench.server.create(f"{bench.prefix}hasty", dead=f"{bench.prefix}{DEAD}", receives=3)
    async with opened(bench.url, bench.records, ["plain", "hasty", QUEUE]) as store:
        memory, *queues = store.warnings
        assert "recorded in memory" in memory
        assert sorted(warning.partition(bench.prefix)[2].split()[0] for warning in queues) == [
            "hasty:",
            "plain",
        ]
        assert any("no redrive policy" in warning for warning in queues)
        assert any("after 3 receives" in warning for warning in queues)
    for queue in ("plain", "hasty"):
        bench.ask("DeleteQueue", queue)


# Redrive


def redrive(bench: Bench, count: int = 1) -> None:
    """Move messages from the dead letters back to their queue, as SQS's own redrive does: with
    the body and the attributes, and as new messages."""
    letters = bench.receive(DEAD, hidden_s=60)
    assert len(letters) == count
    for letter in letters:
        said = letter.get("MessageAttributes", {})
        bench.ask("SendMessage", MessageBody=letter["Body"], MessageAttributes=said)
        bench.ask("DeleteMessage", DEAD, ReceiptHandle=letter["ReceiptHandle"])


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "redis"])
async def test_a_redriven_job_is_run_again_as_if_it_were_new(
    bench: Bench, tmp_path: Path, kind: str
) -> None:
    with fresh_queue_url(kind, tmp_path) as records_url:
        store = make_jobs(bench.url, records_url=records_url)
        try:
            await store.open()
            ours = new(params='{"n":1}', headers='{"a":"b"}')
            await store.enqueue([ours])
            strange = bench.send('{"n":2}', JobName="ping", Trace="abc")
            for _ in range(2):
                first = {lease.id: lease for lease in await lease_now(store)}
                assert {lease.attempts for lease in first.values()} == {0}
                await store.settle([dead(lease) for lease in first.values()])
                with capture_logs() as logs:
                    redrive(bench, 2)
                    again = {lease.id: lease for lease in await lease_now(store)}
                assert again.keys() == {ours.id, strange}
                assert [log["event"] for log in logs] == ["job.redriven"] * 2
                for id, lease in again.items():
                    assert (lease.params, lease.headers) == (first[id].params, first[id].headers)
                    assert (lease.attempts, lease.losses, lease.refusals) == (0, 0, 0)
                    job = await get(store, lease.id)
                    assert (job.state, job.dead, job.error) == (State.STARTED, False, None)
                await store.settle([dead(lease) for lease in again.values()])
                redrive(bench, 2)
            done = await lease_now(store)
            assert await store.settle([ended(lease) for lease in done]) == [True] * 2
            assert (bench.size(), bench.size(DEAD)) == (0, 0)
        finally:
            await store.close()


async def test_an_old_copy_of_a_dead_job_does_not_bring_it_back(
    bench: Bench, store: SqsJobs
) -> None:
    bench.send('{"n":1}', JobName="ping", JobId="seven")
    await store.settle([dead(await lease_one(store))])
    (letter,) = bench.receive(DEAD)
    redrive(bench)
    await store.settle([dead(await lease_one(store))])
    assert bench.size(DEAD) == 1
    with capture_logs() as logs:
        # A late copy of the first letter.
        said = letter["MessageAttributes"]
        bench.ask("SendMessage", MessageBody=letter["Body"], MessageAttributes=said)
        assert await lease_now(store) == []
    assert [log["event"] for log in logs] == ["job.late_message"]
    assert (bench.size(), bench.size(DEAD)) == (0, 1)
    with capture_logs() as logs:
        bench.send('{"n":1}', JobName="ping", JobId="seven")  # a copy of the first message
        assert await lease_now(store) == []
    assert [(log["event"], log["log_level"]) for log in logs] == [("job.late_message", "warning")]
    job = await get(store, JobId("seven"))
    assert (job.state, job.dead) == (State.FAILURE, True)


async def test_a_redriven_message_of_a_job_that_succeeded_meanwhile_changes_nothing(
    bench: Bench, store: SqsJobs
) -> None:
    await store.enqueue([new(id="seven")])
    await store.settle([dead(await lease_one(store))])
    (letter,) = bench.receive(DEAD)
    assert await store.retry([JobId("seven")]) == [Requeued.DONE]
    await store.settle([ended(await lease_one(store))])
    said = letter["MessageAttributes"]
    bench.ask("SendMessage", MessageBody=letter["Body"], MessageAttributes=said)
    with capture_logs() as logs:
        assert await lease_now(store) == []
    assert [log["event"] for log in logs] == ["job.late_message"]
    assert (bench.size(), bench.size(DEAD)) == (0, 0)


async def test_a_job_that_sqs_moved_by_itself_can_be_redriven(tmp_path: Path) -> None:
    with fresh_prefix(tmp_path, [QUEUE], receives=2) as prefix:
        bench = Bench(prefix, MemoryJobs())
        async with opened(bench.url, bench.records) as store:
            await store.enqueue([new(id="seven")])
            await wait_until(lambda: not bench.receive() and not bench.size(), "it is moved")
            (found,) = await store.find(JobQuery(dead=True))
            assert found.id == "seven"
            redrive(bench)
            with capture_logs() as logs:
                lease = await lease_one(store)
            assert (lease.id, lease.attempts) == ("seven", 0)
            assert [log["event"] for log in logs] == ["job.redriven"]


# Messages of other services


async def test_the_senders_own_attributes_are_headers(bench: Bench, store: SqsJobs) -> None:
    bench.ask(
        "SendMessage",
        MessageBody="{}",
        MessageAttributes={
            "JobName": {"DataType": "String", "StringValue": "ping"},
            "JobHeaders": {"DataType": "String", "StringValue": '{"tenant":"ours"}'},
            "traceparent": {"DataType": "String", "StringValue": "00-abc"},
            "tenant": {"DataType": "String", "StringValue": "theirs"},
            "count": {"DataType": "Number.int", "StringValue": "7"},
            "blob": {"DataType": "Binary", "BinaryValue": "AAE="},
        },
    )
    lease = await lease_one(store)
    expected = {"tenant": "ours", "traceparent": "00-abc", "count": "7", "blob": "AAE="}
    assert json.loads(lease.headers) == expected
    await store.settle([dead(lease)])
    (letter,) = bench.receive(DEAD)
    said = letter["MessageAttributes"]
    assert {"traceparent", "tenant", "count", "blob"} < set(said)
    redrive(bench)
    assert json.loads((await lease_one(store)).headers) == expected


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"Type": "Notification", "TopicArn": "arn", "Message": "{}"}, "raw message delivery"),
        ({"version": "0", "detail-type": "x", "source": "s", "detail": {}}, "EventBridge event"),
        ({"Records": [{"eventSource": "aws:s3", "s3": {}}]}, "notification of aws:s3"),
        ({"Service": "Amazon S3", "Event": "s3:TestEvent"}, "its test event"),
        ({"n": 1}, "a JSON object without that attribute"),
        ("hello", "a text"),
        ([1], "a JSON array"),
    ],
)
async def test_a_message_that_names_no_task_is_dead_at_once_with_that_reason(
    bench: Bench, tmp_path: Path, body: object, told: str
) -> None:
    environment = greeting_worker(bench, tmp_path)
    sent = bench.send(body if isinstance(body, str) else json.dumps(body))
    start = ("start", "--no-schedules", "--burst")
    code, _, log = await worker_command(*start, environment=environment, cwd=tmp_path)
    assert code == 0, log
    assert "job.refused" not in log
    job = await recorded(bench, tmp_path, sent)
    assert (job.state, job.dead, job.refusals) == (State.FAILURE, True, 0)
    error = json.loads(job.error or "{}")
    assert error["type"] == "UnnamedJob"
    assert told in error["message"]
    assert (bench.size(), bench.size(DEAD)) == (0, 1)


async def test_a_body_that_is_not_json_is_reported_as_such(bench: Bench, tmp_path: Path) -> None:
    environment = greeting_worker(bench, tmp_path)
    bodies = ["{not json", '"{\\"param\\": \\"x\\"}"', "[1]"]
    sent = [bench.send(body, JobName="example:job") for body in bodies]
    start = ("start", "--no-schedules", "--burst")
    code, _, log = await worker_command(*start, environment=environment, cwd=tmp_path)
    assert code == 0, log
    told = []
    for id in sent:
        job = await recorded(bench, tmp_path, id)
        assert job.dead
        told.append(json.loads(job.error or "{}")["message"])
    assert "got text that is not JSON: Expecting property name" in told[0]
    assert "it was encoded twice" in told[1]
    assert "not JSON" not in told[2]


def greeting_worker(bench: Bench, folder: Path) -> dict[str, str]:
    """The environment of a worker that knows ``example:job``."""
    (folder / "shouting.py").write_text(
        "from worker import task\n\n\n"
        "@task(name='example:job', queue='default')\n"
        "async def shout(param: str) -> str:\n"
        "    return param.upper()\n"
    )
    return {
        "WORKER_QUEUE_URL": bench.url,
        "WORKER_TASK_MODULES": "shouting",
        "WORKER_STATE_DIR": "state",
        "WORKER_DATA_API_URL": "http://api",
    }


async def recorded(bench: Bench, folder: Path, id: str) -> Job:
    """What the records of `greeting_worker` say of a job."""
    records = f"sqlite:///{folder / 'state' / 'worker.db'}"
    store = make_jobs(bench.url, records_url=records)
    await store.open()
    try:
        return await get(store, JobId(id))
    finally:
        await store.close()


# Records in other engines


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
async def test_any_other_engine_can_keep_the_records(
    bench: Bench, tmp_path: Path, kind: str
) -> None:
    with fresh_queue_url(kind, tmp_path) as records_url:
        store, other = [make_jobs(bench.url, records_url=records_url) for _ in range(2)]
        try:
            await store.open()
            await other.open()
            unique = Unique("u", (State.PENDING, State.STARTED, State.RETRY))
            job, delayed = new(params='{"n":1}', unique=unique), new(delay=LONG)
            await store.enqueue([job, delayed])
            assert await other.enqueue([new(unique=unique)]) == [Enqueued(job.id, created=False)]
            bench.send(JobName="strange")
            leases = {lease.task: lease for lease in await lease_now(store)}
            assert leases.keys() == {"ping", "strange"}
            await store.tell(leases["ping"], '{"percent":10}')
            assert (await get(other, job.id)).state is State.PROGRESS
            assert await other.cancel([job.id, delayed.id]) == [Requeued.ASKED, Requeued.DONE]
            assert await store.extend(list(leases.values()), LONG) == [Held.CANCEL, Held.YES]
            assert await store.settle([ended(leases["ping"], State.RETRY)]) == [True]
            again = await lease_one(other)
            assert (again.id, again.attempts, again.cancel) == (job.id, 1, True)
            waiting = asyncio.create_task(store.wait(job.id, 10 * SECOND))
            said = [ended(again, result="7"), dead(leases["strange"])]
            assert await other.settle(said) == [True, True]
            result = await waiting
            assert result is not None
            assert (result.queue, result.state, result.result) == (QUEUE, State.SUCCESS, "7")
            (letter,) = await other.find(JobQuery(dead=True))
            assert (letter.task, letter.queue) == ("strange", QUEUE)
            assert bench.size(DEAD) == 1
            assert await other.retry([letter.id]) == [Requeued.DONE]
            assert (await lease_one(store)).id == letter.id
        finally:
            await store.close()
            await other.close()


# What goes wrong in between


async def test_entries_that_fail_by_the_services_fault_are_sent_again(
    bench: Bench, between: Meddler, meddled: SqsJobs
) -> None:
    between.failing["SendMessageBatch"] = 2
    jobs = [new() for _ in range(5)]
    assert all(told.created for told in await meddled.enqueue(jobs))
    first, second = between.calls["SendMessageBatch"]
    assert (len(first["Entries"]), len(second["Entries"])) == (5, 2)
    between.failing["DeleteMessageBatch"] = 3
    leases = await lease_now(meddled)
    assert {lease.id for lease in leases} == {job.id for job in jobs}
    assert await meddled.settle([ended(lease) for lease in leases]) == [True] * 5
    assert bench.size() == 0


async def test_what_the_service_does_not_take_can_be_enqueued_again(
    bench: Bench, between: Meddler, meddled: SqsJobs
) -> None:
    jobs = [new() for _ in range(3)]
    between.failing["SendMessageBatch"] = 1000
    with pytest.raises(StoreUnavailable, match="did not take a job: InternalError"):
        await meddled.enqueue(jobs)
    between.failing.clear()
    between.broken.add("SendMessageBatch")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await meddled.enqueue(jobs)
    assert bench.size() == 0
    between.broken.clear()
    assert [told.id for told in await meddled.enqueue(jobs)] == [job.id for job in jobs]
    assert {lease.id for lease in await lease_now(meddled)} == {job.id for job in jobs}
    await meddled.enqueue(jobs)
    assert bench.size() == 3  # what was leased is not sent again


async def test_one_job_that_sqs_refuses_does_not_keep_the_others_away(
    bench: Bench, store: SqsJobs
) -> None:
    await store.enqueue([])
    assert await lease_now(store) == []  # it has looked at the queue
    bench.ask("SetQueueAttributes", Attributes={"MaximumMessageSize": "1024"})
    long, *short = new(params=json.dumps({"text": "x" * 2000})), new(), new()
    with pytest.raises(NotSupported, match=f"refused job {long.id}"):
        await store.enqueue([short[0], long, short[1]])
    assert {lease.id for lease in await lease_now(store)} == {job.id for job in short}
    assert await store.get([long.id]) == [None]


async def test_what_sqs_cannot_carry_is_refused_before_anything_is_recorded(
    bench: Bench, store: SqsJobs
) -> None:
    able = store.capabilities
    assert able.most_payload is not None
    fits = new(params=json.dumps("x" * (able.most_payload - 2)), delay=timedelta(minutes=15))
    await store.enqueue([fits])
    for refused, why in (
        (fits._replace(params=json.dumps("x" * able.most_payload)), "up to 1032192 bytes"),
        (new(headers=json.dumps({"a": "x" * 9000})), "headers of up to 8192"),
        (new(delay=timedelta(minutes=16)), "15 minutes"),
    ):
        other = new()
        with pytest.raises(NotSupported, match=why):
            await store.enqueue([other, refused._replace(id=JobId("refused"))])
        assert await store.get([other.id, JobId("refused")]) == [None, None]
    with pytest.raises(ConfigurationError, match="FIFO"):
        await store.enqueue([new(queue="orders.fifo")])
    assert bench.size() == 1


async def test_a_queue_that_takes_shorter_messages_is_asked_before_anything_is_recorded(
    bench: Bench, store: SqsJobs
) -> None:
    bench.ask("SetQueueAttributes", Attributes={"MaximumMessageSize": "262144"})
    fits, long = new(params=json.dumps("x" * 261_000)), new(params=json.dumps("x" * 262_144))
    with pytest.raises(NotSupported, match="takes up to 262144, as its MaximumMessageSize says"):
        await store.enqueue([fits, long])
    assert await store.get([fits.id, long.id]) == [None, None]
    await store.enqueue([fits])
    assert (await lease_one(store)).id == fits.id


async def test_jobs_of_a_megabyte_are_sent_in_batches_that_fit(
    bench: Bench, between: Meddler, meddled: SqsJobs
) -> None:
    assert meddled.capabilities.most_payload is not None
    sizes = [meddled.capabilities.most_payload - 2, 500_000, 500_000, 500_000, 10]
    jobs = [new(params=json.dumps("x" * size)) for size in sizes]
    await meddled.enqueue(jobs)
    sent = between.calls["SendMessageBatch"]
    assert sorted(len(call["Entries"]) for call in sent) == [1, 2, 2]
    leases = {lease.id: lease for lease in await lease_now(meddled)}
    assert [len(leases[job.id].params) for job in jobs] == [size + 2 for size in sizes]
    await meddled.settle([dead(lease) for lease in leases.values()])
    assert (bench.size(), bench.size(DEAD)) == (0, 5)


async def test_a_dead_letter_that_is_never_taken_stays_in_the_records_and_is_logged(
    bench: Bench, store: SqsJobs
) -> None:
    bench.send(json.dumps({"text": "x" * 4000}), JobName="ping")
    lease = await lease_one(store)
    bench.ask("SetQueueAttributes", DEAD, Attributes={"MaximumMessageSize": "1024"})
    with capture_logs() as logs:
        assert await store.settle([dead(lease)]) == [True]
    assert [log["event"] for log in logs] == ["queue.letter_refused"]
    assert (bench.size(), bench.size(DEAD)) == (0, 0)
    assert (await get(store, lease.id)).dead


async def test_a_message_that_could_not_be_deleted_is_deleted_when_it_comes_back(
    bench: Bench, between: Meddler, meddled: SqsJobs
) -> None:
    await meddled.enqueue([new(), new()])
    leases = await lease_now(meddled)
    between.broken.update({"DeleteMessageBatch", "ChangeMessageVisibilityBatch"})
    said = [ended(leases[0], result="7"), ended(leases[1], State.RETRY)]
    assert await meddled.settle(said) == [True, True]
    assert (await get(meddled, leases[0].id)).state is State.SUCCESS
    assert bench.size() == 2
    between.broken.clear()
    for lease in leases:
        receipt = json.loads(lease.receipt)[2]
        bench.ask("ChangeMessageVisibility", ReceiptHandle=receipt, VisibilityTimeout=0)
    (again,) = await lease_now(meddled)
    assert (again.id, again.attempts) == (leases[1].id, 1)
    assert bench.size() == 1


async def test_a_dead_letter_that_could_not_be_sent_is_sent_when_it_comes_back(
    bench: Bench, between: Meddler, meddled: SqsJobs
) -> None:
    bench.send('{"n":1}', JobName="ping", Trace="abc")
    lease = await lease_one(meddled)
    between.broken.add("SendMessageBatch")
    assert await meddled.settle([dead(lease)]) == [True]
    assert (bench.size(), bench.size(DEAD)) == (1, 0)
    between.broken.clear()
    receipt = json.loads(lease.receipt)[2]
    bench.ask("ChangeMessageVisibility", ReceiptHandle=receipt, VisibilityTimeout=0)
    assert await lease_now(meddled) == []
    assert bench.size() == 0
    (letter,) = bench.receive(DEAD)
    assert letter["Body"] == '{"n":1}'
    ours = {"JobName", "JobId", "JobError", "JobDelivery"}
    assert ours | {"Trace"} == set(letter["MessageAttributes"])


async def test_the_message_of_a_job_that_was_revoked_is_deleted_when_it_comes(
    bench: Bench, store: SqsJobs
) -> None:
    job = new()
    await store.enqueue([job])
    assert await store.cancel([job.id]) == [Requeued.DONE]
    assert await lease_now(store) == []
    assert bench.size() == 0


async def test_a_job_that_lost_its_message_is_sent_anew(bench: Bench, store: SqsJobs) -> None:
    job = new(params='{"n":1}')
    await store.enqueue([job])
    bench.ask("PurgeQueue")
    assert await store.retry([job.id]) == [Requeued.NOT_NOW]
    lease = await lease_one(store)
    assert (lease.id, lease.params) == (job.id, '{"n":1}')


async def test_nothing_is_received_while_the_records_are_away(
    bench: Bench, between: Meddler
) -> None:
    class Records(MemoryJobs):
        away = False

        def check(self) -> None:
            if self.away:
                raise StoreUnavailable("away")

        async def claim(self, *args: Any, **rest: Any) -> list[Lease | Job | None]:
            self.check()
            return await super().claim(*args, **rest)

        async def get(self, *args: Any) -> list[Job | None]:
            self.check()
            return await super().get(*args)

    records = Records()
    async with opened(between.url(bench.prefix), records) as store:
        await store.enqueue([new()])
        records.away = True
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="away"):
                await store.lease(QUEUE, limit=1, ttl=SHORT, wait=ZERO, worker="one")
        assert len(between.calls["ReceiveMessage"]) == 1
        records.away = False
        assert len(await store.lease(QUEUE, limit=1, ttl=LONG, wait=3 * SECOND, worker="one")) == 1


async def test_what_is_claimed_for_somebody_who_has_gone_is_given_back(bench: Bench) -> None:
    class Records(MemoryJobs):
        def __init__(self) -> None:
            super().__init__()
            self.asked, self.go_on = asyncio.Event(), asyncio.Event()

        async def claim(self, *args: Any, **rest: Any) -> list[Lease | Job | None]:
            self.asked.set()
            await self.go_on.wait()
            return await super().claim(*args, **rest)

    records = Records()
    async with opened(bench.url, records) as store:
        await store.enqueue([new()])
        waiting = asyncio.create_task(lease_now(store))
        await records.asked.wait()
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        records.go_on.set()
        again = await lease_one(store)
        assert (again.deliveries, again.losses, again.attempts) == (2, 0, 0)


async def test_a_service_that_does_not_answer_is_not_there(
    bench: Bench, between: Meddler, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"sqs+http://127.0.0.1:{refused_port()}/1?region={REGION}"
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        async with opened(nobody, bench.records):
            pass
    between.broken.add("ListQueues")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        async with opened(between.url(bench.prefix), bench.records):
            pass
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreUnavailable, match="no AWS credentials were found"):
        async with opened(bench.url, bench.records):
            pass


async def test_a_service_that_was_away_at_the_start_is_used_once_it_is_there(
    bench: Bench, between: Meddler
) -> None:
    class Records(MemoryJobs):
        opened = 0

        async def open(self) -> None:
            self.opened += 1
            if self.opened == 1:
                raise StoreUnavailable("not yet")

    records = Records()
    store = SqsJobs(between.url(bench.prefix), records)
    between.broken.add("ListQueues")
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.open()
        between.broken.clear()
        await store.enqueue([new()])
        assert len(await lease_now(store)) == 1
        await store.open()
        assert records.opened == 2
    finally:
        await store.close()


async def test_nothing_says_which_region_it_is(bench: Bench) -> None:
    assert "AWS_REGION" not in os.environ
    with pytest.raises(ConfigurationError, match="expected a region"):
        async with opened(f"sqs+http://127.0.0.1:{bench.server.port}/1", bench.records):
            pass


# Counts


async def test_messages_of_strangers_are_counted_before_they_come(
    bench: Bench, store: SqsJobs
) -> None:
    await store.enqueue([new(), new(delay=LONG)])
    for _ in range(3):
        bench.send(JobName="ping")
    assert [count._replace(oldest=None) for count in await store.counts()] == [
        QueueCount(QUEUE, "", State.PENDING, 3),
        QueueCount(QUEUE, "ping", State.PENDING, 2),
    ]
    leases = await lease_now(store)
    assert [(count.state, count.jobs) for count in await store.counts()] == [
        (State.PENDING, 1),
        (State.STARTED, 4),
    ]
    await store.settle([dead(lease) for lease in leases])
    bench.send(queue=DEAD, JobName="ping")
    assert [tuple(count)[1:5] for count in await store.counts()] == [
        ("", State.FAILURE, 1, 1),
        ("ping", State.FAILURE, 4, 4),
        ("ping", State.PENDING, 1, 0),
    ]


async def test_queues_of_others_in_the_same_records_are_not_seen(
    bench: Bench, store: SqsJobs
) -> None:
    await bench.records.enqueue([new(id="plain"), new(id="other", queue="sqs/elsewhere-default")])
    await store.enqueue([new(id="ours")])
    assert [job.id for job in await store.find(JobQuery())] == ["ours"]
    ids = [JobId("plain"), JobId("other"), JobId("ours")]
    assert [job and job.queue for job in await store.get(ids)] == [None, None, QUEUE]
    assert [count.jobs for count in await store.counts()] == [1]
    assert await store.cancel(ids) == [Requeued.UNKNOWN, Requeued.UNKNOWN, Requeued.DONE]
    assert await store.drop(ids) == [Requeued.UNKNOWN, Requeued.UNKNOWN, Requeued.DONE]


async def test_the_engine_is_made_from_its_url(bench: Bench) -> None:
    store = make_jobs(bench.url, records_url="memory://", queues=[QUEUE])
    await store.open()
    try:
        await store.enqueue([new()])
        assert len(await lease_now(store)) == 1
        assert len(store.warnings) == 1
    finally:
        await store.close()


async def test_a_message_with_the_id_of_another_job_is_a_dead_letter_of_its_own(
    bench: Bench, store: SqsJobs
) -> None:
    job = new("ping", id="x", params='{"n": 1}')
    await store.enqueue([job])
    (lease,) = await lease_all(store, 1)
    assert await store.settle([ended(lease)]) == [True]
    bench.send('{"n":1.0}', JobName="ping", JobId="x")  # the same in other words
    others = [
        bench.send('{"n": 2}', JobName="ping", JobId="x"),
        bench.send('{"n": 1}', JobName="pong", JobId="x"),
    ]

    async def are_dead() -> bool:
        await lease_now(store)
        found = await store.get([JobId(one) for one in others])
        return all(one is not None and one.dead for one in found)

    until = asyncio.get_running_loop().time() + LONGEST_S
    while not await are_dead():
        assert asyncio.get_running_loop().time() < until, "waited in vain for dead letters"
    for one in others:
        assert "its JobId x is that of another job" in ((await get(store, JobId(one))).error or "")
    kept = await get(store, JobId("x"))
    assert (kept.state, kept.params, kept.deliveries) == (State.SUCCESS, '{"n": 1}', 1)


async def test_a_job_that_waits_is_not_harmed_by_a_message_with_its_id(
    bench: Bench, store: SqsJobs
) -> None:
    await store.enqueue([new("ping", id="x", delay=LONG)])
    other = bench.send('{"n": 2}', JobName="pong", JobId="x")
    until = asyncio.get_running_loop().time() + LONGEST_S
    while (await store.get([JobId(other)]))[0] is None:
        assert asyncio.get_running_loop().time() < until, "waited in vain for the message"
        assert await lease_now(store) == []
    assert (await get(store, JobId(other))).dead
    assert (await get(store, JobId("x"))).state is State.PENDING


async def test_a_message_leaves_to_the_worker_what_its_task_declares(
    bench: Bench, store: SqsJobs
) -> None:
    bench.send("{}", JobName="ping", JobOptions='{"max_retries": 2}')
    bench.send("{}", JobName="ping", JobExpiresAt="2100-01-01T00:00:00+00:00")
    leases = await lease_all(store, 2)
    assert sorted(left_open(lease.options) for lease in leases) == [
        ("expires", "unique"),
        ("unique",),
    ]
