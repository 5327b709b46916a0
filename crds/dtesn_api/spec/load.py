"""`spec.load`: where the server's load is read. Every field is live.

A source's value becomes (v - min) / (max - min), clamped to [0, 1]; the sources with fresh readings are averaged by
weight. Weight 0 switches a source off.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from dtesn_api.reading import Section
from dtesn_api.schema import Rule
from dtesn_api.spec.kinds import DnsLabel, FilePath, HttpUrl, ObjectName, PromQL

BUILT_IN_SOURCES = ("queue", "system", "nvml", "engine")

Weight = Annotated[float, Meta(ge=0, le=1000)]
Value = Annotated[float, Meta(ge=-1e15, le=1e15)]
Interval = Annotated[float, Meta(ge=0.1, le=3600)]


class SecretReference(Section, frozen=True, kw_only=True):
    """A Secret in the resource's namespace."""

    name: Annotated[ObjectName, Meta(description="Name of the Secret; its keys are files below /etc/dtesn/secrets/NAME.")]


class PrometheusAuth(Section, frozen=True, kw_only=True):
    """Credentials, from files that are read again when they change: a bearer token, or user name and password."""

    bearer_token_file: Annotated[FilePath | None, Meta(description="File whose content is the bearer token.")] = None
    username_file: Annotated[FilePath | None, Meta(description="File whose content is the user name of basic authentication.")] = None
    password_file: Annotated[FilePath | None, Meta(description="File whose content is the password of basic authentication.")] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="auth: bearer or basic",
            fields=("bearer_token_file", "username_file"),
            holds=lambda s: s.bearer_token_file is None or s.username_file is None,
            sentence="absent where {username_file} is given",
            cel="!(has(self.bearerTokenFile) && has(self.usernameFile))",
        ),
        Rule(
            name="auth: user name and password together",
            fields=("username_file", "password_file"),
            holds=lambda s: (s.username_file is None) == (s.password_file is None),
            sentence="given together with {password_file}",
            cel="has(self.usernameFile) == has(self.passwordFile)",
        ),
    )


class PrometheusTls(Section, frozen=True, kw_only=True):
    """TLS towards Prometheus."""

    ca_file: Annotated[FilePath | None, Meta(description="File of the certificate authorities to trust; absent = the system's.")] = None
    cert_file: Annotated[FilePath | None, Meta(description="File of the client certificate.")] = None
    key_file: Annotated[FilePath | None, Meta(description="File of the client certificate's key.")] = None
    server_name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=253)] | None,
        Meta(description="Name that the server's certificate must bear; absent = the URL's host."),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="tls: certificate and key together",
            fields=("cert_file", "key_file"),
            holds=lambda s: (s.cert_file is None) == (s.key_file is None),
            sentence="given together with {key_file}",
            cel="has(self.certFile) == has(self.keyFile)",
        ),
    )


class PrometheusSource(Section, frozen=True, kw_only=True):
    """One instant query, polled in the background."""

    name: Annotated[
        DnsLabel, Meta(description="Name of the source in metrics and answers; unique in the list, and not that of a built-in source.")
    ]
    url: Annotated[HttpUrl, Meta(description="Base URL of the Prometheus HTTP API.")]
    query: Annotated[PromQL, Meta(description="PromQL instant query that yields one number.")]
    weight: Annotated[Weight, Meta(description="Share in the combined load; 0 = off.")] = 1.0
    min: Annotated[Value, Meta(description="Value of the query that means no load.")] = 0.0
    max: Annotated[Value, Meta(description="Value of the query that means full load.")] = 1.0
    interval_seconds: Annotated[Interval, Meta(description="Seconds between queries.")] = 5.0
    timeout_seconds: Annotated[Interval, Meta(description="Seconds after which a query is given up.")] = 2.0
    stale_after_seconds: Annotated[Interval, Meta(description="A sample older than this many seconds counts as none.")] = 30.0
    hold_seconds: Annotated[
        float, Meta(ge=0, le=3600, description="Seconds for which the last value is held when queries fail; then there is no data.")
    ] = 30.0
    auth: Annotated[PrometheusAuth | None, Meta(description="Credentials, from files.")] = None
    tls: Annotated[PrometheusTls | None, Meta(description="TLS settings, from files.")] = None
    secret_ref: Annotated[SecretReference | None, Meta(description="A Secret to mount at /etc/dtesn/secrets/NAME for the files above.")] = (
        None
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="source name: not a built-in one",
            fields=("name",),
            holds=lambda s: s.name not in BUILT_IN_SOURCES,
            sentence="different from the built-in sources " + ", ".join(BUILT_IN_SOURCES),
            cel="!(self.name in [" + ", ".join(f"'{name}'" for name in BUILT_IN_SOURCES) + "])",
        ),
        Rule(
            name="value range: min < max",
            fields=("min", "max"),
            holds=lambda s: s.min < s.max,
            sentence="below {max}",
            cel="self.min < self.max",
        ),
        Rule(
            name="polling: interval <= stale after",
            fields=("interval_seconds", "stale_after_seconds"),
            holds=lambda s: s.interval_seconds <= s.stale_after_seconds,
            sentence="at most {stale_after_seconds}, or every reading is stale before the next",
            cel="self.intervalSeconds <= self.staleAfterSeconds",
        ),
        Rule(
            name="tls: only with https",
            fields=("url", "tls"),
            holds=lambda s: s.tls is None or s.url.startswith("https://"),
            sentence="an https URL where {tls} is given",
            cel="!has(self.tls) || self.url.startsWith('https://')",
        ),
    )


class QueueSource(Section, frozen=True, kw_only=True):
    """The busy share of this sidecar's own devices, a one-second average."""

    weight: Annotated[Weight, Meta(description="Share in the combined load; 0 = off.")] = 1.0


class SystemSource(Section, frozen=True, kw_only=True):
    """CPU and memory of the node or cgroup, without this pod's own CPU time."""

    weight: Annotated[Weight, Meta(description="Share in the combined load; 0 = off.")] = 1.0


class NvmlSource(Section, frozen=True, kw_only=True):
    """Utilisation of the node's NVIDIA GPUs."""

    weight: Annotated[Weight, Meta(description="Share in the combined load; 0 = off.")] = 0.0


class EngineSource(Section, frozen=True, kw_only=True):
    """An LLM engine (Aphrodite, vLLM) beside the sidecar, by its `/load` or `/metrics`."""

    url: Annotated[HttpUrl, Meta(description="Base URL of the engine.")]
    weight: Annotated[Weight, Meta(description="Share in the combined load; 0 = off.")] = 1.0
    max_requests: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(description="Running requests that mean full load; absent = the engine's own limit where it exports one, else 64."),
    ] = None


class LoadConfiguration(Section, frozen=True, kw_only=True):
    """The sources of the server's load and their weights."""

    prometheus: Annotated[
        tuple[PrometheusSource, ...], Meta(max_length=16, extra={"key": "name"}, description="Prometheus queries, at most 16.")
    ] = ()
    queue: Annotated[QueueSource, Meta(description="The sidecar's own devices.")] = QueueSource()
    system: Annotated[SystemSource, Meta(description="The machine's CPU and memory.")] = SystemSource()
    nvml: Annotated[NvmlSource, Meta(description="The node's NVIDIA GPUs.")] = NvmlSource()
    engine: Annotated[EngineSource | None, Meta(description="An LLM engine beside the sidecar; absent = none.")] = None
