"""Looks whether the keys of jobs in Redis agree with each other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from redis import Redis

RUNNING = {"STARTED", "PROGRESS"}
WAITING = {"PENDING", "RETRY"}


class Keys:
    """All that one prefix has."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self.client = cast("Any", client)
        self.prefix = f"{prefix}:jobs:"
        self.jobs: dict[str, dict[str, str]] = {
            id: self.client.hgetall(self.prefix + "job:" + id) for id in self.names("job:")
        }

    def names(self, start: str) -> list[str]:
        """What comes after ``start`` in the keys that begin with it."""
        found = self.client.scan_iter(match=f"{self.prefix}{start}*", count=1000)
        return [key.removeprefix(self.prefix + start) for key in found]

    def ranked(self, name: str) -> dict[str, float]:
        return dict(self.client.zrange(self.prefix + name, 0, -1, withscores=True))

    def hash(self, name: str) -> dict[str, str]:
        return dict(self.client.hgetall(self.prefix + name))

    def members(self, name: str) -> set[str]:
        return set(self.client.smembers(self.prefix + name))


def audit(client: Redis, prefix: str) -> None:
    """
    Raises:
        AssertionError: They do not.
    """
    keys = Keys(client, prefix)
    jobs = keys.jobs
    states = {id: job["state"] for id, job in jobs.items()}
    groups = {id: f"{job['state']} {job['group']}" for id, job in jobs.items()}
    leased = keys.ranked("leased")
    ready = stands(keys, "ready:")
    parked = stands(keys, "parked:")
    later = {id: queue for queue in keys.names("later:") for id in keys.ranked(f"later:{queue}")}

    for id, state in states.items():
        places = [id in ready, id in parked, id in later, id in leased]
        expected = 1 if state in WAITING | RUNNING else 0
        assert sum(places) == expected, (id, jobs[id], places)
        if state in WAITING:
            assert id not in leased, id
        if state in RUNNING:
            assert id not in later, id
        queue = jobs[id]["group"].partition(" ")[0]
        if id in ready:
            assert ready[id] == queue
        if id in later:
            assert later[id] == queue
    assert {*ready, *parked, *later, *leased} <= set(jobs)

    waiting = {
        (field, id) for field in keys.names("waiting:") for id in keys.ranked(f"waiting:{field}")
    }
    assert waiting == {(groups[id], id) for id in {*ready, *parked, *later}}
    assert keys.hash("counts") == {f: str(n) for f, n in Counter(groups.values()).items()}
    dead = {id for id, job in jobs.items() if job.get("dead")}
    assert keys.hash("dead_counts") == {
        field: str(number) for field, number in Counter(groups[id] for id in dead).items()
    }
    assert set(keys.ranked("created")) == set(jobs)
    assert set(keys.ranked("dead")) == dead
    ended = {id for id, state in states.items() if state not in WAITING | RUNNING}
    assert set(keys.ranked("finished")) == ended - dead
    assert set(keys.names("result:")) <= ended
    audit_concurrency(keys, leased, ready)


def stands(keys: Keys, start: str) -> dict[str, str]:
    """Jobs, and the queue or the lot in which they stand."""
    found = {}
    for name in keys.names(start):
        for member in keys.ranked(start + name):
            id = member.split(" ", 2)[2]
            assert id not in found, id
            found[id] = name
    return found


def audit_concurrency(keys: Keys, leased: dict[str, float], ready: dict[str, str]) -> None:
    """Who holds a key is leased, and no lot is forgotten that the key has room for."""
    keyed = {id: job for id, job in keys.jobs.items() if "key" in job}
    for name in {job["key"] for job in keyed.values()}:
        holders = keys.members(f"holders:{name}")
        assert holders == {id for id in leased if keys.jobs[id].get("key") == name}
        lots = keys.members(f"lots:{name}")
        for lot in keys.names("parked:"):
            limit, queue, key = lot.split(" ", 2)
            if key != name:
                continue
            assert lot in lots
            standing = [
                id
                for id in ready
                if keyed.get(id, {}).get("key") == name
                and keyed[id]["limit"] == limit
                and ready[id] == queue
            ]
            assert len(standing) >= int(limit) - len(holders), (lot, holders, standing)
