"""`/openapi.json` against the real server: every operation with made-up requests. No 5xx, and no answer (status,
content type, body) that the document does not name."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.harness import ServerProcess

EXAMPLES = 6
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    nowhere = tmp_path_factory.mktemp("exchanges") / "exchanges.toml"  # nobody is asked beyond this machine
    nowhere.write_text('[binance]\nbase_url = "http://127.0.0.1:9"\nretries = 0\npatience = 1.0\n')
    with ServerProcess("--workers", "1", "--rate-limit", "0", "--log-level", "error", "--max-upload", "4M",
                       "--exchanges", str(nowhere)) as server:
        yield server


def test_every_answer_is_documented(api: ServerProcess) -> None:
    schema = schemathesis.openapi.from_url(api.url + "/openapi.json")
    wrong, statuses = [], set()
    for found, mode in product(schema.get_all_operations(), (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)):
        operation = found.ok()
        if "text/event-stream" in str(operation.definition.raw.get("responses", {}).get("200", "")):
            continue  # an answer without an end: tests/dialects/test_tradingpartners_stream.py reads it
        if operation.path.endswith("/exchanges/{name}/refresh"):
            continue  # its 503 says that the exchange is away, as it is here: tests/server/test_imports_http.py asks it

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None,
                  derandomize=True)
        @given(case=operation.as_strategy(generation_mode=mode))
        def probe(case: Any) -> None:
            answer = case.call_and_validate(headers=api.headers, checks=CHECKS, timeout=60, allow_redirects=False)
            statuses.add(answer.status_code)

        try:
            probe()
        except Unsatisfiable:  # nothing can be wrong with a request that has no parts
            continue
        except (FailureGroup, Failure, AssertionError) as error:
            wrong.append(f"{operation.label} ({mode.value}): {error}\n{getattr(error, 'exceptions', '')}")
    assert not wrong, "\n\n".join(wrong)
    assert {200, 201, 404, 422, 426} <= statuses, "the requests were all alike"


def test_the_document_names_every_route_and_says_what_it_needs(api: ServerProcess) -> None:
    found = httpx.get(api.url + "/openapi.json").json()
    assert found["openapi"] == "3.1.0"
    operations = [(path, verb, operation) for path, verbs in found["paths"].items()
                  for verb, operation in verbs.items()]
    assert len({operation["operationId"] for _, _, operation in operations}) == len(operations) > 20
    for path, verb, operation in operations:
        assert operation["summary"] and operation["tags"], (verb, path)
        assert {"500", "503"} <= operation["responses"].keys()
        if operation["security"]:
            assert {"401", "403"} <= operation["responses"].keys(), (verb, path)
    for path in ("/healthz", "/login", "/workbench/api/me", "/workbench/api/tokens/{id}", "/workbench/api/runs"):
        assert path in found["paths"]
    assert found["paths"]["/healthz"]["get"]["security"] == []
