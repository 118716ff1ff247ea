"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Figures of one server; nothing in them says who asked for what."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"infini_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"infini_{name}", text, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"infini_{name}", text, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "Requests that were answered.", "route", "status")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts, those that were known included.")
        self.cached_tokens = counter("cached_tokens", "Tokens of prompts that did not have to be read again.")
        self.read_tokens = counter("read_tokens", "Tokens that were read into sessions.")
        self.written_tokens = counter("written_tokens", "Tokens that were written.")
        self.disconnects = counter("disconnects", "Clients that went away before they were answered.")
        self.requests_at_work = gauge("requests_at_work", "Requests that are in work or wait for the model.")
        self.jobs_waiting = gauge("jobs_waiting", "Requests that wait for the model.")
        self.jobs_live = gauge("jobs_live", "Requests that the model is at.")
        self.live_sessions = gauge("live_sessions", "Sessions that are kept in memory; all are in the store.")
        self.live_bytes = gauge("live_session_bytes", "Bytes of their states and histories.")
        self.prefix_bytes = gauge("prefix_bytes", "Bytes of the places that conversations can go on from.")
        self.batch_size = histogram("batch_size", "Replies that share a step.", _ROWS)
        self.step_seconds = histogram("step_seconds", "Seconds of a step that writes one token of each reply.")
        self.first_token_seconds = histogram("first_token_seconds", "Seconds until a reply begins.")
        self.request_seconds = histogram("request_seconds", "Seconds until a request is answered.")
