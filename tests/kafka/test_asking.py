"""Two real workers are asked: customers, sizes, what changed lately and previews are those of the state and the log."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import msgspec
import pytest

from streams.inspection import explain_customer, open_readers
from streams.kafka.keys import crc32_partition, murmur2_partition
from tests.kafka.test_live_definitions import FIRST, Definitions, live_stage
from tests.kafka.workers import ROOT, Feed, NewStage, Stage, WorkerProcess, until, visit

pytestmark = pytest.mark.kafka

CUSTOMERS = 60


def url_of(worker: WorkerProcess) -> str:
    return f"http://127.0.0.1:{worker.events('web_started')[-1]['port']}"


def get(worker: WorkerProcess, path: str) -> Any:
    """What the worker, or the one that it redirects to, answers."""
    status, text = worker.get(path)
    assert status == 200, text
    return json.loads(text)


def partitions_of(worker: WorkerProcess) -> set[int]:
    """Those that it has open; none while it answers nothing, as in the midst of a rebalance."""
    status, text = worker.get("/api/segments/visited/partitions")
    return {int(number) for number in json.loads(text)["partitions"]} if status == 200 else set()


def two_workers(stage: Stage, definitions: Definitions) -> tuple[WorkerProcess, WorkerProcess]:
    for segment_id, condition in FIRST.items():
        definitions.put(segment_id, condition)
    first = stage.start("first")
    first.wait_ready()
    second = stage.start("second")
    second.wait_ready()
    until(lambda: first.is_ready() and partitions_of(first) and partitions_of(second), "both have partitions")
    return first, second


def counted(worker: WorkerProcess, segment_id: str) -> dict[str, Any]:
    """The segment over all partitions, once everything is counted and read back."""
    found: dict[str, Any] = {}

    def whole() -> bool:
        found.update(get(worker, f"/api/segments/{segment_id}")["status"])
        return found["size"] is not None and found["counted_from"] is None

    until(whole, f"{segment_id} is counted: {found}")
    return found


def check_numbers(stage: Stage, workers: tuple[WorkerProcess, ...], ids: list[str]) -> None:
    """Every worker tells what counting in the topics finds, in all and by partition."""
    sizes = Counter(change["segment_id"] for change in stage.memberships().values())
    flows = Counter((each["segment_id"], each["type"]) for part in stage.changes() for each in part)
    by_partition = [Counter((each["segment_id"], each["type"]) for each in part) for part in stage.changes()]
    for worker in workers:
        for each in ids:
            status = counted(worker, each)
            assert status["size"] == sizes[each]
            day = status["last_day"]
            assert (day["entered"], day["left"]) == (flows[each, "entered"], flows[each, "left"])
            for number, part in enumerate(by_partition):
                of_part = status["partitions"][str(number)]
                assert of_part["size"] == part[each, "entered"] - part[each, "left"]
            assert status["unanswered"] == []


def state_says(owner: WorkerProcess, customer: str) -> Any:
    with open_readers(owner.folder) as readers:
        return msgspec.to_builtins(explain_customer(readers, customer, None))


def test_any_worker_answers_or_leads_to_the_one_who_knows(new_stage: NewStage) -> None:
    stage, definitions = live_stage(new_stage)
    stage.send(Feed(stage.topics, seed=31, customers=CUSTOMERS).records(2_000))
    workers = two_workers(stage, definitions)
    stage.wait_applied()
    stage.wait_settled(*workers)
    owners = {number: each for each in workers for number in partitions_of(each)}
    known = sorted({each["customer_id"] for part in stage.changes() for each in part})
    log = [each for part in stage.changes() for each in part]
    redirected = 0
    for customer in known:
        path = f"/api/customers/{quote(customer, safe='')}"
        answers = [get(worker, path) for worker in workers]
        owner = owners[answers[0]["partition"]]
        assert answers[0] == answers[1]
        said = state_says(owner, customer)
        assert {name: answers[0][name] for name in said} == said
        members = [each["segment_id"] for each in answers[0]["segments"] if each["member"]]
        assert [each["segment_id"] for each in answers[0]["memberships"]] == members
        newest = [each["change_id"] for each in reversed(log) if each["customer_id"] == customer][:20]
        assert [each["change_id"] for each in answers[0]["last_changes"]] == newest
        assert answers[0]["looked_back_to"] is None
        redirected += owner is not workers[0]
    assert redirected
    check_explain(workers, owners, known[0])
    assert workers[0].get("/api/customers/nobody")[0] == 404


def check_explain(workers: tuple[WorkerProcess, ...], owners: dict[int, WorkerProcess], customer: str) -> None:
    """The command says over HTTP what it says of the owner's folder, in words and as JSON."""
    owner = owners[murmur2_partition(customer.encode(), len(owners))]
    [other] = [each for each in workers if each is not owner]
    for more in ([], ["--json"], ["visited", "--json"]):
        of_state = explain(customer, *more, "--state", str(owner.folder))
        assert of_state.returncode == 0, of_state.stderr
        assert explain(customer, *more, "--url", url_of(other)).stdout == of_state.stdout != ""
    assert explain("nobody", "--url", url_of(other)).returncode == 1
    unknown = explain(customer, "nothing", "--url", url_of(other))
    assert (unknown.returncode, "no segment 'nothing'" in unknown.stderr) == (2, True)


def explain(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streams.cli", "explain", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)


def test_a_worker_with_a_segments_file_answers_about_customers_too(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.send(Feed(stage.topics, seed=33, customers=10).records(200))
    worker = stage.start("worker")
    worker.wait_ready()
    stage.wait_applied()
    customers = {each["customer_id"] for part in stage.changes() for each in part}
    known = [each for each in sorted(customers) if worker.get(f"/api/customers/{each}")[0] == 200]
    assert known
    for customer in known:
        answer, said = get(worker, f"/api/customers/{customer}"), state_says(worker, customer)
        assert {name: answer[name] for name in said} == said


def test_a_customer_that_crc32_has_placed_elsewhere_is_found(new_stage: NewStage) -> None:
    stage, definitions = live_stage(new_stage)
    workers = two_workers(stage, definitions)
    customer = next(
        each
        for each in (f"p{number}" for number in range(1000))
        if murmur2_partition(each.encode(), 2) != crc32_partition(each.encode(), 2)
    )
    placed = crc32_partition(customer.encode(), 2)
    stage.send([visit(stage.topics[0], customer, "e1", 1_760_000_000_000)._replace(partition=placed)])
    stage.wait_applied()
    for worker in workers:
        until(lambda: worker.get(f"/api/customers/{customer}")[0] == 200, "the customer is found")  # noqa: B023 - asked at once
        assert get(worker, f"/api/customers/{customer}")["partition"] == placed


def test_sizes_and_flows_are_those_of_the_topics_also_after_a_restart(new_stage: NewStage) -> None:
    stage, definitions = live_stage(new_stage)
    feed = Feed(stage.topics, seed=32, customers=300)
    stage.send(feed.records(1_500))
    workers = two_workers(stage, definitions)
    ids = sorted(FIRST)
    # Asked in the midst of it: what comes then is followed.
    get(workers[0], "/api/segments/visited")
    stage.send(feed.records(1_500))
    stage.wait_applied()
    stage.wait_settled(*workers)
    check_numbers(stage, workers, ids)
    definitions.put("visited", {"kind": "page_visit", "domain": "shop.example", "within": "3h", "at_least": 2})
    stage.send(feed.records(500))
    stage.wait_applied()
    stage.wait_settled(*workers)
    check_numbers(stage, workers, ids)
    check_previews(workers, definitions, ids)
    workers[1].kill()
    status = get(workers[0], "/api/segments/visited")["status"]
    assert (status["size"], status["last_day"], status["unanswered"]) == (None, None, [the_other(workers[0])])
    until(lambda: partitions_of(workers[0]) == {0, 1}, "the first has both partitions")
    stage.send(feed.records(500))
    stage.wait_applied()
    check_numbers(stage, workers[:1], ids)
    assert workers[0].stop() == 0, workers[0].log_tail()


def the_other(worker: WorkerProcess) -> int:
    [mine] = partitions_of(worker)
    return 1 - mine


def check_previews(workers: tuple[WorkerProcess, ...], definitions: Definitions, ids: list[str]) -> None:
    """A preview of what is in force, over all customers, finds its size; what nobody asked for is unknown."""
    for each in ids:
        document = {"id": each, "name": f"Name of {each}", "conditions": [definitions.wanted[each]]}
        samples = [preview(workers[0], document, number) for number in (0, 1)]
        assert [each["unknown"] for each in samples] == [0, 0]
        assert sum(each["members"] for each in samples) == counted(workers[0], each)["size"]
    untold = preview(workers[0], {"name": "Untold", "conditions": [{"kind": "app_screen", "screen": "cart"}]}, 0)
    assert (untold["members"], untold["unknown"]) == (0, untold["sampled"])


def preview(worker: WorkerProcess, document: dict[str, Any], number: int) -> dict[str, Any]:
    """Of one partition, of which the worker leads to the owner."""
    where = f"{url_of(worker)}/api/segments/preview?sample=10000&partition={number}"
    try:
        return post(where, document)
    except HTTPError as error:
        with error:
            if error.code != 307:
                raise
            return post(error.headers["Location"], document)


def post(where: str, document: dict[str, Any]) -> dict[str, Any]:
    request = Request(where, data=json.dumps(document).encode(), headers={"Content-Type": "application/json"})
    with urlopen(request, timeout=20) as answer:
        sample: dict[str, Any] = json.loads(answer.read())["sample"]
    return sample
