"""Each fault, as an httpx client at the other end of a real socket meets it."""

from __future__ import annotations

import json
import time
from collections import Counter

import httpx
import pytest

from worker.demo.api import create_app
from worker.demo.faults import Faults
from worker.demo.orders import NewOrder
from worker.demo.seed import SeedSpec
from worker.demo.store import Store

from .service import IMPATIENT, Service, wait_until, with_key

LIST = "/api/v1/orders?status=pending"
# Two clocks and a timer's grain: a pause may measure a little less than it was.
TIMER = 0.9


def test_latency_delays_the_answer(service: Service) -> None:
    service.inject("latency_s=0.05", "latency_jitter_s=0.01")
    began = time.monotonic()

    assert service.client.get(LIST).status_code == 200

    assert time.monotonic() - began >= 0.05 * TIMER


@pytest.mark.parametrize("how", ["reset_next=1", "reset_rate=1"])
def test_reset_is_a_tcp_reset_before_any_answer(service: Service, how: str) -> None:
    service.inject(how)

    with pytest.raises(httpx.ReadError, match="reset by peer"):
        service.client.get(LIST)

    assert service.requests() == [("/api/v1/orders", None, "reset")]


def test_reset_within_the_body_comes_after_the_headers(service: Service) -> None:
    service.store.seed(SeedSpec(orders=50))
    service.inject("reset_in_body=true")

    with service.client.stream("GET", LIST) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.ReadError, match="reset by peer"):
            answer.read()

    assert service.requests() == [("/api/v1/orders", 200, "reset_in_body")]


def test_truncated_body_ends_before_its_announced_length(service: Service) -> None:
    service.store.seed(SeedSpec(orders=50))
    service.inject("truncate=true")

    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        service.client.get(LIST)


def test_hung_call_is_never_answered(service: Service) -> None:
    service.inject("hang=true", "only_next=1")

    with pytest.raises(httpx.ReadTimeout):
        service.client.get(LIST, timeout=IMPATIENT)

    assert service.client.get(LIST).status_code == 200
    assert service.requests()[0] == ("/api/v1/orders", None, "hang")


def test_slow_body_comes_byte_by_byte(service: Service) -> None:
    service.inject("slow_body=0.01")
    began = time.monotonic()

    answer = service.client.get(LIST)

    assert answer.json() == {"items": []}
    assert time.monotonic() - began >= 0.01 * len(answer.content) * TIMER


def test_huge_body_is_right_but_for_its_size(service: Service) -> None:
    service.store.orders.add([NewOrder(id=1)])
    service.inject("huge_body=200000")

    answer = service.client.get(LIST)

    assert "content-length" not in answer.headers
    assert len(answer.content) > 200_000
    assert answer.json()["items"][0]["id"] == 1


def test_huge_body_can_be_abandoned(service: Service) -> None:
    service.inject("huge_body=1000000000", "only_next=1")

    with service.client.stream("GET", LIST) as answer:
        assert len(next(answer.iter_raw())) > 0

    assert service.client.get(LIST).status_code == 200


def test_malformed_body_is_not_json(service: Service) -> None:
    service.inject("malformed=true")

    with pytest.raises(json.JSONDecodeError):
        service.client.get(LIST).json()


def test_body_of_the_wrong_shape_is_not_an_object(service: Service) -> None:
    service.inject("wrong_shape=true")

    assert isinstance(service.client.get(LIST).json(), list)


@pytest.mark.parametrize("text", ['{"items": 3}', "null", "", "é"])
def test_body_can_be_any_text(service: Service, text: str) -> None:
    service.inject(f"body={text}")

    assert service.client.get(LIST).text == text


@pytest.mark.parametrize("place", ["https://elsewhere.example/api?x=1", "/login", ""])
def test_redirect_names_its_place_and_has_no_effect(service: Service, place: str) -> None:
    service.inject(f"redirect={place}")

    answer = service.sync()

    assert (answer.status_code, answer.headers["location"]) == (302, place)
    assert service.effects() == []


def test_next_calls_fail_and_then_no_more(service: Service) -> None:
    service.inject("fail_next=2")

    assert [service.client.get(LIST).status_code for _ in range(4)] == [503, 503, 200, 200]
    assert [fault for _, _, fault in service.requests()] == ["error", "error", None, None]
    assert service.server.faults.fail_next == 0


def test_error_rate_is_about_kept_and_repeatable(service: Service) -> None:
    def statuses(*faults: str) -> list[int]:
        service.inject("error_rate=0.5", *faults)
        return [service.client.get(LIST).status_code for _ in range(100)]

    first = statuses("seed=7")

    assert set(first) == {200, 500, 502, 503, 504}
    assert 30 <= Counter(first)[200] <= 70
    assert statuses("seed=7") == first
    assert statuses("seed=8") != first
    assert set(statuses("error_status=418")) == {200, 418}


@pytest.mark.parametrize("value", ["3", "-1", "soon", "Fri, 31 Dec 1999 23:59:59 GMT", "1e9", ""])
def test_retry_after_is_sent_as_it_is(service: Service, value: str) -> None:
    service.inject("fail_next=1", "error_status=429", f"retry_after={value}")

    answer = service.client.get(LIST)

    assert (answer.status_code, answer.headers["retry-after"]) == (429, value)


def test_faults_keep_to_the_calls_that_contain_the_text(service: Service) -> None:
    service.inject("error_rate=1", "error_status=500", "only_path=GET /api/v1/orders?")

    assert service.client.get(LIST).status_code == 500
    assert service.sync().status_code == 200
    service.inject("fail_next=1", "only_path=offset=100")
    assert service.client.get(LIST).status_code == 200
    assert service.client.get(LIST + "&offset=100").status_code == 503


def test_faults_keep_to_the_next_calls(service: Service) -> None:
    service.inject("malformed=true", "only_next=2", "only_path=/sync")

    assert service.client.get(LIST).json() == {"items": []}
    shapes = [service.sync(key).text.startswith('{"synced"') for key in "abc"]

    assert shapes == [False, False, True]


def test_control_side_meets_no_fault(service: Service) -> None:
    service.inject("reset_rate=1")

    assert service.client.get("/demo/summary").status_code == 200
    assert service.client.get("/openapi.json").status_code == 200


def test_fault_that_was_not_met_is_not_in_the_journal(service: Service) -> None:
    service.inject("error_rate=1", "redirect=/")

    assert service.sync(key=None).status_code == 400

    assert service.requests() == [("/api/v1/sync", 400, None)]


async def test_fault_of_the_connection_needs_a_connection() -> None:
    with Store() as store:
        app = create_app(store, faults=Faults(reset_next=1))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://demo"
        ) as client:
            with pytest.raises(RuntimeError, match="needs a real connection"):
                await client.post("/api/v1/sync", headers=with_key("k"))


def test_connection_is_free_again_after_a_hang(service: Service) -> None:
    """The claim on the key ends with the work, not with the answer that never comes."""
    service.inject("hang=true", "only_next=1")

    with pytest.raises(httpx.ReadTimeout):
        service.client.post("/api/v1/sync", headers=with_key("k"), timeout=IMPATIENT)
    wait_until(lambda: service.sync().status_code == 200, "the key is free")

    assert service.effects() == [("sync", None)]


@pytest.mark.parametrize("fault", ["reset_next=1", "truncate=true", "reset_in_body=true"])
def test_fault_of_a_connection_that_is_gone_does_nothing(
    service: Service, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    service.inject("latency_s=0.1", "only_next=1", fault)

    with pytest.raises(httpx.ReadTimeout):
        service.client.get(LIST, timeout=IMPATIENT)
    wait_until(lambda: service.requests()[0][2] is not None, "the call met its fault")

    assert service.client.get(LIST).status_code == 200
    assert caplog.records == []


def test_faults_are_read_from_text() -> None:
    items = ["latency_s=0.02", "hang=true", "fail_next=3", "retry_after=5", "redirect=/a=b"]

    faults = Faults.parse(items)

    assert faults == Faults(
        latency_s=0.02, hang=True, fail_next=3, retry_after="5", redirect="/a=b"
    )
    assert Faults.parse([]) == Faults()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("eror_rate=0.1", r"there is no fault 'eror_rate'; .* there are: error_rate, "),
        ("hung=1", r"there is no fault 'hung'; .* there are: hang, "),
        ("hang", r"NAME=VALUE, as in latency_s=0.02; got 'hang'"),
        ("error_rate=2", r"error_rate: .* less than or equal to 1, got '2'"),
        ("latency_s=long", r"latency_s: .* valid number.*, got 'long'"),
        ("fail_next=-1", r"fail_next: .*, got '-1'"),
        ("error_status=200", r"error_status: .*, got '200'"),
        ("error_status=500", r"add error_rate=1 or fail_next=3"),
        ("retry_after=1\r\nx: y", r"retry_after: "),
    ],
)
def test_fault_that_is_none_is_refused(item: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Faults.parse([item])
