"""The operator on a private control plane (kwok's nodes and pods): one resource, a thousand and five thousand at once, rest, repair.

Each pod is answered for by one idle sidecar. Everything shares this machine: the API server, etcd and the controllers take most of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psutil

from bench.drive import sidecar
from bench.plane import TENANTS, Request, World, cpu_seconds, world
from bench.results import Part, Table, Target
from bench.section import Bench, arguments, main
from bench.stats import median_interval
from dtesn_api import names
from dtesn_operator.kinds import CONFIG_MAP, DEPLOYMENT, DTESN_BATCHER, SERVICE, SERVICE_ACCOUNT, Kind

MB = 1e6
OWNED = (SERVICE_ACCOUNT, CONFIG_MAP, SERVICE, DEPLOYMENT)
AT_ONCE = 64  # creations under way
SETTLED = 15.0  # seconds without a write of the operator
EDITS: dict[Kind, dict[str, Any]] = {
    CONFIG_MAP: {"data": {names.CONFIG_FILE: "{}"}},
    DEPLOYMENT: {"spec": {"replicas": 3}},
    SERVICE: {"spec": {"type": "NodePort"}},
    SERVICE_ACCOUNT: {"automountServiceAccountToken": True},
}


def resource(name: str) -> dict[str, Any]:
    """A resource with all defaults: two pods."""
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name}, "spec": {}}


async def single(bench: Bench) -> Part:
    """One resource after the other, each alone: from its creation's arrival until the last object that it owns is there."""
    count = int(bench.span(40, 5))
    async with sidecar() as pods, world(f"http://127.0.0.1:{pods.port}") as at:
        await _made(at, "warm")
        at.audited()
        for number in range(count):
            bench.at(f"resource {number + 1} of {count}")
            await _made(at, f"one-{number}")
            await asyncio.sleep(0.5)  # its pods become ready: the next one is to be alone
        seen = at.audited()
    spans = [made_after(seen, f"one-{number}") for number in range(count)]
    median, worst = median_interval(spans).scaled(1000), 1000 * max(spans)
    return Part(
        "single",
        0,
        [
            Target.of("operator: apply to all owned objects, one resource", median, 2000, 500, better="lower", unit="ms"),
            Target.exactly(f"operator: the same, the slowest of {count}", worst, 2000, 500, better="lower", unit="ms"),
        ],
        data={"seconds": spans},
    )


async def _made(at: World, name: str) -> None:
    """Create a resource and wait for what it owns."""
    await at.send("POST", DTESN_BATCHER, resource(name))
    async with asyncio.timeout(60):
        while not all([await at.exists(kind, name) for kind in OWNED]):  # noqa: ASYNC110 - the API server has no event for all
            await asyncio.sleep(0.05)


def made_after(seen: Sequence[Request], name: str) -> float:
    """Seconds from a resource's creation to that of the last object it owns."""
    created = [request for request in seen if request.verb == "create" and request.status == 201 and not request.subresource]
    (begin,) = [
        request.received for request in created if request.resource == names.PLURAL and request.agent == "bench" and request.name == name
    ]
    ends = [request.answered for request in created if request.operators and request.name == name and request.resource in _PLURALS]
    if len(ends) != len(OWNED):
        raise RuntimeError(f"{name}: {len(ends)} objects of {len(OWNED)} were created")
    return max(ends) - begin


_PLURALS = {kind.plural for kind in OWNED}


async def thousand(bench: Bench) -> Part:
    """A thousand at once until all are Ready; then three minutes of rest with idle sidecars; then drift, with the thousand there."""
    count = int(bench.span(1000, 50))
    async with sidecar() as pods, world(f"http://127.0.0.1:{pods.port}") as at:
        seconds, spent, tables = await _mass(bench, at, count)
        quiet_after = await _until_quiet(bench, at)
        writes, leases, share, resident = await _rest(bench, at)
        deleted, edited = await _drift(bench, at, int(bench.span(6, 1)))
    repaired, slowest = median_interval([*deleted, *edited]).scaled(1000), 1000 * max(*deleted, *edited)
    rest = [
        ("quiet after", f"{quiet_after:.0f} s"),
        ("renewals of the lease, per minute", f"{leases:.0f}"),
        ("the operator's CPU for all of them", f"{spent:.1f} s"),
        ("deleted, back after (median)", f"{1000 * median_interval(deleted).median:.0f} ms"),
        ("edited, back after (median)", f"{1000 * median_interval(edited).median:.0f} ms"),
    ]
    return Part(
        "thousand",
        0,
        [
            Target.exactly(f"operator: {count:,} resources at once, all Ready", seconds, 90, 50, better="lower", unit="s"),
            Target.exactly(f"operator: writes per minute at rest, {count:,} resources", writes, 0, better="lower", unit=""),
            Target.exactly("operator: share of a core at rest", share, 0.01, better="lower", unit="%"),
            Target.exactly("operator: resident memory", resident, 200, better="lower", unit="MB"),
            Target.of("operator: an owned object deleted or edited by hand is back", repaired, 2000, better="lower", unit="ms"),
            Target.exactly("operator: the same, the slowest", slowest, 2000, better="lower", unit="ms"),
        ],
        [*tables, Table("beside that", ("", ""), rest)],
        data={"deleted": deleted, "edited": edited},
    )


async def five_thousand(bench: Bench) -> Part:
    """Five thousand at once until all are Ready, in fifty namespaces: in one, Kubernetes's own controllers look at all for each."""
    count = int(bench.span(5000, 100))
    tenants = [f"{TENANTS}-{number}" for number in range(50)]
    async with sidecar() as pods, world(f"http://127.0.0.1:{pods.port}", *tenants) as at:
        seconds, _, tables = await _mass(bench, at, count, tenants)
        resident = at.daemons()["operator"].memory_info().rss / MB
    return Part(
        "five-thousand",
        0,
        [
            Target.exactly(
                f"operator: {count:,} resources at once in {len(tenants)} namespaces, all Ready", seconds, 300, better="lower", unit="s"
            )
        ],
        tables,
        data={"resident_mb": resident},
    )


async def _mass(bench: Bench, at: World, count: int, tenants: Sequence[str] = (TENANTS,)) -> tuple[float, float, list[Table]]:
    """Create so many at once: seconds until all are Ready, the operator's CPU seconds, who took how much, what the operator asked for."""
    await _made(at, "warm")
    ready = 0

    def told(number: int) -> None:
        nonlocal ready
        ready = number
        if number % 50 == 0:
            bench.at(f"{number} of {count + 1} ready")

    processes = at.daemons() | {"this": psutil.Process()}
    at.audited()
    before = cpu_seconds(processes)
    watching = asyncio.create_task(at.until_ready(count + 1, 580, told))
    turns = asyncio.Semaphore(AT_ONCE)

    async def create(number: int) -> float:
        async with turns:
            return await at.send("POST", DTESN_BATCHER, resource(f"many-{number}"), namespace=tenants[number % len(tenants)])

    began = time.monotonic()
    creating = asyncio.gather(*(create(number) for number in range(count)))
    await creating
    created = time.monotonic()
    ended = await watching
    after = cpu_seconds(processes)
    spent = {name: after[name] - before[name] for name in processes}
    rows = [(name, f"{seconds:.1f} s", f"{100 * seconds / (ended - began):.0f} %") for name, seconds in spent.items()]
    rows.append((f"all {count:,} were created after", f"{created - began:.1f} s", ""))
    cpu = Table(f"CPU time until {count:,} were Ready", ("", "seconds", "of a core"), rows)
    return ended - began, spent["operator"], [cpu, _requests(at.audited(), count)]


def _requests(seen: Sequence[Request], count: int) -> Table:
    """The operator's requests per resource; those of the lease and of the watches aside."""
    asked = Counter(
        (request.verb, "/".join(part for part in (request.resource, request.subresource) if part), str(request.status))
        for request in seen
        if request.operators and request.verb != "watch" and request.resource != "leases"
    )
    rows = [(*what, f"{number / count:.2f}") for what, number in asked.most_common() if number > count / 100]
    return Table("the operator's requests until then", ("", "of", "answered", "per resource"), rows)


async def _until_quiet(bench: Bench, at: World) -> float:
    """Seconds until the operator has written nothing for a while."""
    at.audited()
    began = last = time.monotonic()
    async with asyncio.timeout(580):
        while time.monotonic() - last < SETTLED:
            bench.at(f"until the operator is quiet: {time.monotonic() - last:.0f} s")
            await asyncio.sleep(1.0)
            if _written(at.audited()):
                last = time.monotonic()
    return last - began


def _written(seen: Sequence[Request]) -> list[Request]:
    return [request for request in seen if request.operators and request.writes and request.resource != "leases"]


async def _rest(bench: Bench, at: World) -> tuple[float, float, float, float]:
    """Writes and lease renewals per minute, share of a core, resident MB at most; over minutes, since a resync comes every five."""
    seconds = bench.span(180, 10)
    operator = at.daemons()["operator"]
    at.audited()
    before, began = cpu_seconds({"operator": operator})["operator"], time.monotonic()
    resident = 0.0
    while (spent := time.monotonic() - began) < seconds:
        bench.at(f"at rest: {seconds - spent:.0f} s to go")
        resident = max(resident, operator.memory_info().rss / MB)
        await asyncio.sleep(min(1.0, seconds - spent))
    took = time.monotonic() - began
    share = (cpu_seconds({"operator": operator})["operator"] - before) / took
    seen = at.audited()
    leases = [request for request in seen if request.operators and request.writes and request.resource == "leases"]
    return 60 * len(_written(seen)) / took, 60 * len(leases) / took, share, resident


async def _drift(bench: Bench, at: World, rounds: int) -> tuple[list[float], list[float]]:
    """Delete and edit each kind of owned object, of another resource each time: seconds until it is back."""
    at.audited()
    number, wanted = 0, []
    for _ in range(rounds):
        for kind in OWNED:
            for verb in ("delete", "patch"):
                bench.at(f"drift: {verb} {kind.kind}")
                name = f"many-{number}"
                await _tampered(at, kind, name, verb)
                wanted.append((kind, name, verb))
                number += 1
                await asyncio.sleep(1.0)
    seen = at.audited()
    found = [(verb, back_after(seen, kind, name)) for kind, name, verb in wanted]
    return [span for verb, span in found if verb == "delete"], [span for verb, span in found if verb == "patch"]


async def _tampered(at: World, kind: Kind, name: str, verb: str) -> None:
    if verb == "delete":
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        await at.send("DELETE", kind, options, name)
    else:
        await at.send("PATCH", kind, EDITS[kind], name, "application/merge-patch+json")


def back_after(seen: Sequence[Request], kind: Kind, name: str) -> float:
    """Seconds from somebody's deletion or edit to the operator's last write that it led to."""
    ours = [
        request for request in seen if (request.resource, request.name, request.subresource) == (kind.plural, name, "") and request.writes
    ]
    begin = next(request for request in ours if request.agent == "bench")
    answers = [request.answered for request in ours if request.operators and request.received >= begin.received]
    if not answers:
        raise RuntimeError(f"{kind.kind} {name} did not come back")
    return max(answers) - begin.received


PARTS = {
    "single": (single, "1 minute"),
    "thousand": (thousand, "9 minutes"),
    "five-thousand": (five_thousand, "6 minutes"),
}

if __name__ == "__main__":
    raise SystemExit(main("operator", arguments("operator", __doc__, PARTS), PARTS))
