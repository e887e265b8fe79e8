"""The description says what the service does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from worker.demo.contract import CONTRACT, DEFAULT_LIMIT, MAX_LIMIT
from worker.demo.orders import NewOrder, Status

from .service import Service, with_key

Document = dict[str, Any]

# It ships no types, so it is imported as the untyped thing it is.
jsonschema: Any = import_module("jsonschema")


@pytest.fixture
def document(service: Service) -> Document:
    answer = service.client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    content: Document = answer.json()
    return content


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def resolve(document: Document, node: Document) -> Document:
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_description_has_the_calls_of_the_contract_and_no_others(document: Document) -> None:
    described = {(method, path) for method, path, _ in operations(document)}

    assert described == {(operation.method, operation.path) for operation in CONTRACT}
    assert len(described) == 7


def test_description_is_well_formed(document: Document) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert {"title", "version"} <= document["info"].keys()
    for reference in references(document):
        assert resolve(document, {"$ref": reference})
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)


def test_every_operation_describes_its_parameters_and_answers(document: Document) -> None:
    keyed = {(each.method, each.path): each.keyed for each in CONTRACT}
    for method, path, operation in operations(document):
        parameters = [resolve(document, each) for each in operation.get("parameters", [])]
        in_path = {each["name"] for each in parameters if each["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        takes_key = any(each["name"] == "Idempotency-Key" for each in parameters)
        assert takes_key is keyed[method, path]
        for each in parameters:
            jsonschema.Draft202012Validator.check_schema(each["schema"])
            assert each["required"] or each["in"] == "query"
        assert operation["summary"].endswith(".")
        assert {"200", "400", "401", "429", "503"} <= operation["responses"].keys()
        for answer in operation["responses"].values():
            assert resolve(document, answer)["description"]


def test_described_bounds_are_those_of_the_service(document: Document) -> None:
    status, offset, limit = document["paths"]["/api/v1/orders"]["get"]["parameters"]

    assert status["schema"]["enum"] == [each.value for each in Status]
    assert offset["schema"]["default"] == 0
    assert (limit["schema"]["maximum"], limit["schema"]["default"]) == (MAX_LIMIT, DEFAULT_LIMIT)


def test_answers_fit_their_schemas(service: Service, document: Document) -> None:
    service.client.post("/demo/seed", json={"orders": 4, "poison": 1, "bookings": 3})
    service.store.orders.add([NewOrder(id="x", status=Status.DONE)])
    lingering = {"id": "l", "kind": "lingering"}
    service.client.post("/demo/orders", json=[lingering])
    window = "start=2000-01-01T00:00:00Z&end=2999-01-01T00:00:00Z"
    calls = [
        ("GET", "/api/v1/orders", "?status=pending", 200),
        ("GET", "/api/v1/orders", "?status=no", 400),
        ("POST", "/api/v1/orders/{1}/process", "", 200),
        ("POST", "/api/v1/orders/{l}/process", "", 202),
        ("POST", "/api/v1/orders/{4}/process", "", 422),
        ("POST", "/api/v1/orders/{x}/process", "", 410),
        ("POST", "/api/v1/orders/{y}/process", "", 404),
        ("POST", "/api/v1/orders/{1}/invoice", "", 200),
        ("POST", "/api/v1/orders/{y}/invoice", "", 404),
        ("DELETE", "/api/v1/orders/cleanup", "?before=2026-01-01T00:00:00Z", 200),
        ("POST", "/api/v1/sync", "", 200),
        ("GET", "/api/v1/bookings/upcoming", f"?{window}", 200),
        ("POST", "/api/v1/bookings/{1}/remind", "", 200),
        ("POST", "/api/v1/bookings/{9}/remind", "", 404),
    ]
    for method, path, query, status in calls:
        url = re.sub(r"[{}]", "", path) + query
        answer = service.client.request(method, url, headers=with_key(url))
        assert answer.status_code == status, (url, answer.text)
        template = re.sub(r"{.*?}", "{id}", path)
        responses = document["paths"][template][method.lower()]["responses"]
        described = resolve(document, responses[str(status)])
        schema = described["content"]["application/json"]["schema"]
        jsonschema.validate(
            answer.json(),
            {**schema, "components": document["components"]},
            cls=jsonschema.Draft202012Validator,
        )
