"""Sampling against the specification: who is kept, what each stands for, and that nothing else changes."""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from enricher._native import Request, Sampled, encode_attributes
from enricher.sampling.threshold import BITS, NEVER, adjusted_count, ratio_of, threshold_of, written
from tests.property.test_wire import requests
from tests.unit.sampling_oracle import threshold_in, unsampled
from tests.unit.wire_bytes import scanned, spans_of

NO_ERRORS_NONE_SLOW = (0, False)
RUN = encode_attributes({"ebpf.complete": False})

ratios = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 2.0**-56, 2.0**-57, 1e-6, 0.01, 0.1, 1 / 3, 0.5, 0.999, 1.0]))
thresholds = ratios.map(threshold_of)
randomness = st.integers(0, NEVER - 1)
others = st.sampled_from(["", "vendor=1", "a=x y,b@c=2", "congo=t61rcWkgMzE", ",,a=1"])
subkeys = st.sampled_from(["", "p:8;r:62", "x:"])


@st.composite
def tracestates(draw: st.DrawFn) -> str:
    entries = [draw(subkeys)]
    if draw(st.booleans()):
        entries.append(f"rv:{draw(randomness):014x}")
    if draw(st.booleans()):
        entries.append(f"th:{draw(st.one_of(thresholds.map(written), st.sampled_from(['', 'g', 'C', '0' * 15])))}")
    ot = ";".join(filter(None, entries))
    return ",".join(filter(None, [draw(others), f"ot={ot}" if ot else "", draw(others)]))


# Ratios and thresholds


@given(ratios)
def test_a_threshold_rejects_what_the_ratio_does_not_keep_to_four_digits(ratio: float) -> None:
    threshold = threshold_of(ratio)
    assert 0 <= threshold <= NEVER
    if ratio == 0:
        assert threshold == NEVER
        return
    assert threshold < NEVER
    exact = 1 - Fraction(ratio)
    digits = len(f"{int(min(exact, 1 - Fraction(1, NEVER)) * NEVER):014x}") - len(
        f"{int(min(exact, 1 - Fraction(1, NEVER)) * NEVER):014x}".lstrip("f")
    )
    half_a_digit = Fraction(1, 2 * 16 ** min(14, digits + 4))
    assert abs(Fraction(threshold, NEVER) - exact) <= max(half_a_digit, Fraction(1, NEVER))


@given(ratios, ratios)
def test_a_larger_ratio_never_has_a_larger_threshold(one: float, other: float) -> None:
    assert threshold_of(max(one, other)) <= threshold_of(min(one, other))


@given(ratios.filter(bool))
def test_a_threshold_is_read_as_it_is_written(ratio: float) -> None:
    threshold = threshold_of(ratio)
    text = written(threshold)
    assert int(text.ljust(14, "0"), 16) == threshold
    assert text == "0" or not text.endswith("0")
    assert ratio_of(threshold) * adjusted_count(threshold) == pytest.approx(1)


# Which spans


def one_span(trace_id: bytes, trace_state: str) -> bytes:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(
        trace_id=trace_id, span_id=b"s" * 8, trace_state=trace_state, name="n"
    )
    return request.SerializeToString()


def sample(body: bytes, threshold: int, kept: Sequence[int] = ()) -> Sampled:
    return Request.scan(body).sample((threshold, *NO_ERRORS_NONE_SLOW), list(kept), [])


@settings(max_examples=400, deadline=None)
@given(st.binary(min_size=16, max_size=16), tracestates(), thresholds)
def test_a_span_is_kept_or_not_and_says_so_as_the_specification_has_it(
    trace_id: bytes, trace_state: str, threshold: int
) -> None:
    body = one_span(trace_id, trace_state)
    expected = unsampled(trace_id, trace_state, threshold)
    sampled = sample(body, threshold)
    if expected is None:
        assert sampled.body == b""
        assert sampled.sampled_out == 1
        return
    (span,) = spans_of(ExportTraceServiceRequest.FromString(body if sampled.body is None else sampled.body))
    assert span.trace_state == expected
    assert (sampled.body is None) == (trace_state == expected)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=16, max_size=16), tracestates(), ratios.filter(bool), ratios.filter(bool))
def test_what_a_ratio_keeps_every_larger_one_keeps(trace_id: bytes, trace_state: str, one: float, other: float) -> None:
    body = one_span(trace_id, trace_state)
    smaller, larger = sample(body, threshold_of(min(one, other))), sample(body, threshold_of(max(one, other)))
    if not smaller.sampled_out:
        assert not larger.sampled_out


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=16, max_size=16), tracestates(), thresholds, thresholds)
def test_sampled_one_after_the_other_is_sampled_by_the_stricter(
    trace_id: bytes, trace_state: str, one: int, other: int
) -> None:
    body = one_span(trace_id, trace_state)

    def left(body: bytes, threshold: int) -> bytes:
        return body if (sampled := sample(body, threshold)).body is None else sampled.body

    first = left(body, one)
    assert (left(first, other) if first else b"") == left(body, max(one, other))
    assert left(first, one) == first


# Many at once


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.013, 1 / 3])
@pytest.mark.parametrize("before", [None, 0.25, 0.02])
def test_what_the_kept_spans_stand_for_adds_up_to_all_that_came(ratio: float, before: float | None) -> None:
    """By kind of span, within five standard deviations, for spans that were sampled before, and for others."""
    made = random.Random(f"{ratio}{before}")
    count = 10_000
    came_as = threshold_of(before) if before else 0
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    reasons: list[str] = []
    while len(scope.spans) < count:
        trace_id = made.randbytes(16)
        if int.from_bytes(trace_id[9:]) < came_as:
            continue  # that sampler would have dropped it
        reason = made.choices(["rest", "error", "slow", "evidence"], [0.9, 0.04, 0.03, 0.03])[0]
        span = scope.spans.add(trace_id=trace_id, span_id=made.randbytes(8), name=reason, end_time_unix_nano=1)
        span.trace_state = f"ot=th:{written(came_as)}" if before else ""
        span.status.code = Status.STATUS_CODE_ERROR if reason == "error" else Status.STATUS_CODE_OK
        span.end_time_unix_nano = 2_000_000_000 if reason == "slow" else 1_000_000
        reasons.append(reason)
    evidence = [ordinal for ordinal, reason in enumerate(reasons) if reason == "evidence"]
    rule = (threshold_of(ratio), 1_000_000_000, True)
    body = request.SerializeToString()
    sampled = Request.scan(body).sample(rule, evidence, [])
    left = body if sampled.body is None else sampled.body
    stands_for = dict.fromkeys(reasons, 0.0)
    for span in spans_of(ExportTraceServiceRequest.FromString(left)):
        stands_for[span.name] += adjusted_count(threshold_in(span.trace_state) or 0)
    weight = adjusted_count(came_as)
    for reason in ("error", "slow", "evidence"):
        assert stands_for[reason] == pytest.approx(reasons.count(reason) * weight)
    rest = reasons.count("rest")
    kept_of_those = min(1.0, ratio_of(rule[0]) * weight)
    deviation = (rest * kept_of_those * (1 - kept_of_those)) ** 0.5 / kept_of_those * weight
    assert abs(stands_for["rest"] - rest * weight) <= 5 * deviation + 1e-6 * rest * weight
    assert sampled.kept_ratio + sampled.sampled_out == rest


def test_a_trace_is_kept_whole_however_its_spans_are_spread_over_requests_and_workers() -> None:
    made = random.Random(1)
    traces = [made.randbytes(16) for _ in range(300)]
    threshold = threshold_of(0.3)
    kept_by: list[set[bytes]] = []
    for _ in range(4):
        request = ExportTraceServiceRequest()
        for trace_id in made.sample(traces, len(traces)):
            scope = request.resource_spans.add().scope_spans.add()
            scope.spans.add(trace_id=trace_id, span_id=made.randbytes(8))
        left = sample(request.SerializeToString(), threshold).body
        assert left
        kept_by.append({span.trace_id for span in spans_of(ExportTraceServiceRequest.FromString(left))})
    assert all(kept == kept_by[0] for kept in kept_by)
    assert 50 < len(kept_by[0]) < 150


# What is left


def sampled_by_protobuf(body: bytes, fate: Callable[[int, Span], str | None]) -> bytes:
    """What protobuf makes of dropping spans (None) and giving others this tracestate."""
    request = ExportTraceServiceRequest.FromString(body)
    ordinal = 0
    for resource in list(request.resource_spans):
        scopes = list(resource.scope_spans)
        for scope in scopes:
            came = list(scope.spans)
            left = []
            for span in came:
                state = fate(ordinal, span)
                ordinal += 1
                if state is not None:
                    span.trace_state = state
                    left.append(span)
            if came and not left:
                resource.scope_spans.remove(scope)
            else:
                kept = [Span.FromString(span.SerializeToString()) for span in left]
                del scope.spans[:]
                scope.spans.extend(kept)
        if scopes and not resource.scope_spans:
            request.resource_spans.remove(resource)
    return request.SerializeToString(deterministic=True)


@settings(max_examples=400, deadline=None)
@given(requests, thresholds, st.randoms(use_true_random=False))
def test_all_else_in_a_request_of_any_shape_is_as_protobuf_has_it(
    body: bytes, threshold: int, choice: random.Random
) -> None:
    request = scanned(body)
    if request is None:
        return  # of another test
    kept = [ordinal for ordinal in range(request.span_count) if choice.random() < 0.3]
    patched = [ordinal for ordinal in range(request.span_count) if choice.random() < 0.3]
    sampled = request.sample((threshold, *NO_ERRORS_NONE_SLOW), kept, [(ordinal, RUN) for ordinal in patched])

    def fate(ordinal: int, span: Span) -> str | None:
        if ordinal not in kept and (state := unsampled(span.trace_id, span.trace_state, threshold)) is None:
            return None
        if ordinal in patched:
            span.MergeFromString(RUN)
        return span.trace_state if ordinal in kept else state

    expected = sampled_by_protobuf(body, fate)
    if sampled.body == b"":
        assert not spans_of(ExportTraceServiceRequest.FromString(expected))
        return
    left = body if sampled.body is None else sampled.body
    assert ExportTraceServiceRequest.FromString(left).SerializeToString(deterministic=True) == expected
    counted = sampled.sampled_out + sampled.kept_evidence + sampled.kept_ratio + sampled.kept_undecidable
    assert counted == request.span_count


@settings(max_examples=200, deadline=None)
@given(requests, st.integers(0, 3))
def test_with_all_kept_nothing_changes(body: bytes, slow_ns: int) -> None:
    if (request := scanned(body)) and request.span_count:
        assert request.sample((0, slow_ns, True), [], []).body is None


@settings(max_examples=200, deadline=None)
@given(requests, st.integers(1, 2**64 - 1), st.booleans())
def test_errors_and_slow_spans_are_told_as_protobuf_has_them(body: bytes, slow_ns: int, keep_errors: bool) -> None:
    if (request := scanned(body)) is None or request.span_count == 0:
        return
    spans = spans_of(ExportTraceServiceRequest.FromString(body))
    errors = [keep_errors and span.status.code == Status.STATUS_CODE_ERROR for span in spans]
    durations_ns = [max(0, span.end_time_unix_nano - span.start_time_unix_nano) for span in spans]
    slow = [not error and duration >= slow_ns for error, duration in zip(errors, durations_ns, strict=True)]
    sampled = request.sample((NEVER, slow_ns, keep_errors), [], [])
    assert (sampled.kept_error, sampled.kept_slow) == (sum(errors), sum(slow))
    assert sampled.sampled_out == len(spans) - sum(errors) - sum(slow)
    assert BITS == 56
