"""Series as an ExportMetricsServiceRequest. Imported only where metrics are pushed: the message classes are large."""

from collections.abc import Iterable, Mapping
from typing import Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
)

from enricher.telemetry.exposition import PREFIX
from enricher.telemetry.metrics import Distribution, Series, Value

SCOPE: Final = "enricher"


def encoded(series: Iterable[Series], resource: Mapping[str, str], version: str, start_ns: int, now_ns: int) -> bytes:
    """Sums and histograms are cumulative since `start_ns`. Names are those that Prometheus sees, without its suffix.

    Times are UNIX times.
    """
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.extend(_attribute(name, value) for name, value in resource.items())
    scope = group.scope_metrics.add()
    scope.scope.name, scope.scope.version = SCOPE, version
    scope.metrics.extend(_metric(one, start_ns, now_ns) for one in series)
    encoded_request: bytes = request.SerializeToString()
    return encoded_request


def _metric(series: Series, start_ns: int, now_ns: int) -> Metric:
    metric = Metric(name=PREFIX + series.name, description=series.meaning, unit=series.unit)
    if series.kind == "gauge":
        metric.gauge.data_points.extend(_number(series.label, of, value, 0, now_ns) for of, value in _items(series))
    elif series.kind == "counter":
        metric.sum.is_monotonic = True
        metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        metric.sum.data_points.extend(
            _number(series.label, of, value, start_ns, now_ns) for of, value in _items(series)
        )
    else:
        metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        metric.histogram.data_points.extend(
            _histogram(series.label, of, value, start_ns, now_ns)
            for of, value in series.values.items()
            if isinstance(value, Distribution)
        )
    return metric


def _items(series: Series) -> Iterable[tuple[str, float]]:
    return ((of, value) for of, value in series.values.items() if not isinstance(value, Distribution))


def _number(label: str, of: str, value: Value, start_ns: int, now_ns: int) -> NumberDataPoint:
    point = NumberDataPoint(start_time_unix_nano=start_ns, time_unix_nano=now_ns, attributes=_labels(label, of))
    if isinstance(value, int):
        point.as_int = value
    else:
        assert isinstance(value, float)
        point.as_double = value
    return point


def _histogram(label: str, of: str, value: Distribution, start_ns: int, now_ns: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        start_time_unix_nano=start_ns,
        time_unix_nano=now_ns,
        attributes=_labels(label, of),
        count=value.count,
        sum=value.sum,
        bucket_counts=value.counts,
        explicit_bounds=value.bounds,
    )


def _labels(label: str, of: str) -> list[KeyValue]:
    return [_attribute(label, of)] if label else []


def _attribute(name: str, value: str) -> KeyValue:
    return KeyValue(key=name, value=AnyValue(string_value=value))
