"""Which failures are tried again, after how long, and when it is given up."""

import pytest

from enricher.config.model import RetryOnFailure
from enricher.otlp.retry import MAX_RETRY_DELAY_NS, Backoff, Verdict, classify
from enricher.otlp.transport import StatusCode

S = 1_000_000_000

# The table of the OTLP specification, every code of gRPC in it. Second: with RetryInfo.
TABLE = {
    StatusCode.CANCELLED: (Verdict.RETRY, Verdict.RETRY),
    StatusCode.UNKNOWN: (Verdict.PERMANENT, Verdict.PERMANENT),
    StatusCode.INVALID_ARGUMENT: (Verdict.PERMANENT, Verdict.PERMANENT),
    StatusCode.DEADLINE_EXCEEDED: (Verdict.RETRY, Verdict.RETRY),
    StatusCode.NOT_FOUND: (Verdict.PERMANENT, Verdict.PERMANENT),
    StatusCode.ALREADY_EXISTS: (Verdict.PERMANENT, Verdict.PERMANENT),
    StatusCode.PERMISSION_DENIED: (Verdict.PERMANENT, Verdict.PERMANENT),
    StatusCode.UNAUTHENTICATED: (Verdict.PERMANENT, Verdict.PERMANENT),
    StatusCode.RESOURCE_EXHAUSTED: (Verdict.TOO_LARGE, Verdict.RETRY),
    StatusCode.FAILED_PRECONDITION: (Verdict.PERMANENT, Verdict.PERMANENT),
    StatusCode.ABORTED: (Verdict.RETRY, Verdict.RETRY),
    StatusCode.OUT_OF_RANGE: (Verdict.RETRY, Verdict.RETRY),
    StatusCode.UNIMPLEMENTED: (Verdict.PERMANENT, Verdict.PERMANENT),
    StatusCode.INTERNAL: (Verdict.PERMANENT, Verdict.PERMANENT),
    StatusCode.UNAVAILABLE: (Verdict.RETRY, Verdict.RETRY),
    StatusCode.DATA_LOSS: (Verdict.RETRY, Verdict.RETRY),
}


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK])
def test_every_status_has_the_verdict_of_the_specification(code: StatusCode) -> None:
    assert (classify(code, None), classify(code, 0)) == TABLE[code]


def test_the_wait_grows_by_the_multiplier_up_to_the_longest() -> None:
    backoff = Backoff(RetryOnFailure(randomization_factor=0.0))
    waits = [backoff.delay_ns(failures, 0, None, 0.0) for failures in range(1, 8)]
    assert waits == [5 * S, 7.5 * S, 11.25 * S, 16.875 * S, 25.3125 * S, 30 * S, 30 * S]


def test_the_thousandth_failure_still_has_a_wait() -> None:
    assert Backoff(RetryOnFailure(multiplier=100.0)).delay_ns(1000, 0, None, 0.5) == 30 * S


@pytest.mark.parametrize(("random", "wait_ns"), [(0.0, 2.5 * S), (0.5, 5 * S), (0.75, 6.25 * S)])
def test_jitter_spreads_the_wait_evenly_to_both_sides(random: float, wait_ns: float) -> None:
    assert Backoff(RetryOnFailure(randomization_factor=0.5)).delay_ns(1, 0, None, random) == wait_ns


def test_what_the_backend_asks_for_is_waited_at_least() -> None:
    backoff = Backoff(RetryOnFailure(randomization_factor=0.0))
    assert backoff.delay_ns(1, 0, 40 * S, 0.5) == 40 * S
    assert backoff.delay_ns(1, 0, 1 * S, 0.5) == 5 * S


@pytest.mark.parametrize("asked_ns", [3600 * S, 2**63 * S])
def test_a_backend_that_asks_for_more_than_is_sensible_is_asked_again_before(asked_ns: int) -> None:
    backoff = Backoff(RetryOnFailure(randomization_factor=0.0))
    assert backoff.delay_ns(1, 1 * S, asked_ns, 0.5) == MAX_RETRY_DELAY_NS


def test_it_is_given_up_when_the_next_try_would_be_too_late() -> None:
    backoff = Backoff(RetryOnFailure(randomization_factor=0.0, max_elapsed_time_ns=60 * S))
    assert backoff.delay_ns(1, 55 * S, None, 0.5) == 5 * S
    assert backoff.delay_ns(1, 55 * S + 1, None, 0.5) is None
    assert backoff.delay_ns(1, 0, 61 * S, 0.5) is None


def test_no_limit_means_for_ever() -> None:
    assert Backoff(RetryOnFailure(max_elapsed_time_ns=0)).delay_ns(9, 10**18, None, 0.5) == 30 * S


def test_switched_off_it_gives_up_at_once() -> None:
    assert Backoff(RetryOnFailure(enabled=False)).delay_ns(1, 0, 1 * S, 0.5) is None
