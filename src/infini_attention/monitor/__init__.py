"""What the memory holds while a model reads: figures of states and of streams, at a bounded cost."""

from infini_attention.monitor.collector import Collector
from infini_attention.monitor.states import stream_figures
from infini_attention.monitor.summary import retention, six_metrics

__all__ = ["Collector", "retention", "six_metrics", "stream_figures"]
