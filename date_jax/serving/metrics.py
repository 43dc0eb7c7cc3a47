"""The numbers of a server, as Prometheus reads them."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; two servers in a process share none.

    Attributes:
        requests: by route and status.
        seconds: that requests took, by route.
        batch_rows: questions of a batch, by what is asked.
        waiting: questions that wait for the network.
        ready: 1 once all programs are compiled.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "date_jax_requests", "Requests.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "date_jax_request_seconds",
            "Seconds of a request.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_rows = Histogram(
            "date_jax_batch_rows",
            "Questions of a batch.",
            ("question",),
            buckets=_ROWS,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "date_jax_waiting", "Questions that wait.", ("question",), registry=self.registry
        )
        self.ready = Gauge("date_jax_ready", "1 once warm.", registry=self.registry)
        prometheus_client.ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)
