"""The control service: what it answers, and what it changes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from enricher.cli.main import main as cli
from enricher.config.model import Sampling
from enricher.control.service import GET_SAMPLING, SERVICE, SET_SAMPLING, Control, InForce
from enricher.control.v1.control_pb2 import (
    DESCRIPTOR,
    GetSamplingResponse,
    SetSamplingRequest,
    SetSamplingResponse,
)
from enricher.errors import EnricherError
from enricher.otlp.transport import StatusCode


@dataclass
class Sampled:
    """What can be changed, in this process."""

    now: InForce | None = None
    busy: bool = False

    def in_force(self) -> InForce | None:
        return self.now

    def change(self, ratio: float | None, slow_ns: int | None) -> InForce | None:
        if self.busy:
            raise EnricherError("it is being changed", fix="Try again.")
        if self.now is None:
            return None
        settings = self.now.settings
        assert isinstance(settings, Sampling)
        settings = replace(
            settings,
            ratio=settings.ratio if ratio is None else ratio,
            slow_ns=settings.slow_ns if slow_ns is None else slow_ns,
        )
        self.now = InForce(self.now.generation + 1, settings)
        return self.now


@pytest.fixture
def sampled() -> Sampled:
    return Sampled(InForce(7, Sampling(ratio=0.25, keep_errors=False)))


def set_sampling(**fields: object) -> bytes:
    return SetSamplingRequest(**fields).SerializeToString()  # type: ignore[arg-type]


def test_what_is_in_force_is_told(sampled: Sampled) -> None:
    code, _, answer = Control(sampled)(GET_SAMPLING, b"")
    told = GetSamplingResponse.FromString(answer).sampling
    assert code == StatusCode.OK
    assert (told.ratio, told.slow.ToNanoseconds(), told.threshold) == (0.25, 1_000_000_000, "c")
    assert (told.keep_errors, told.keep_evidence, told.generation) == (False, True, 7)


def test_what_is_set_changes_and_the_rest_stays(sampled: Sampled) -> None:
    control = Control(sampled)
    code, _, answer = control(SET_SAMPLING, set_sampling(ratio=0.5))
    assert code == StatusCode.OK
    told = SetSamplingResponse.FromString(answer).sampling
    assert (told.ratio, told.slow.ToNanoseconds(), told.threshold, told.generation) == (0.5, 1_000_000_000, "8", 8)
    control(SET_SAMPLING, set_sampling(slow={"seconds": 2, "nanos": 5_000_000}))
    assert sampled.now == InForce(9, Sampling(ratio=0.5, slow_ns=2_005_000_000, keep_errors=False))


def test_a_ratio_of_zero_is_set_and_not_left_out(sampled: Sampled) -> None:
    _, _, answer = Control(sampled)(SET_SAMPLING, set_sampling(ratio=0))
    told = SetSamplingResponse.FromString(answer).sampling
    assert (told.ratio, told.threshold) == (0, "")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"ratio": 1.1}, "ratio: 1.1 is outside 0 to 1"),
        ({"ratio": -0.1}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"slow": {"nanos": 999_999}}, "slow: 999999ns is outside 1ms to 24h"),
        ({"slow": {"seconds": -1}}, "slow"),
        ({"slow": {"seconds": 315_576_000_000}}, "slow"),
        ({"slow": {"seconds": 2**63 - 1, "nanos": 2**31 - 1}}, "slow"),
        ({"ratio": 0.1, "slow": {"seconds": 0}}, "slow"),
    ],
)
def test_a_value_out_of_its_range_changes_nothing(sampled: Sampled, fields: dict[str, object], why: str) -> None:
    before = sampled.now
    code, message, answer = Control(sampled)(SET_SAMPLING, set_sampling(**fields))
    assert (code, answer) == (StatusCode.INVALID_ARGUMENT, b"")
    assert why in message
    assert sampled.now is before


@pytest.mark.parametrize("path", [GET_SAMPLING, SET_SAMPLING])
def test_a_pipeline_that_does_not_sample_says_how_it_would(path: str) -> None:
    code, message, _ = Control(Sampled())(path, b"")
    assert code == StatusCode.FAILED_PRECONDITION
    assert "processors" in message


def test_what_cannot_be_changed_now_is_to_be_tried_again(sampled: Sampled) -> None:
    sampled.busy = True
    code, message, _ = Control(sampled)(SET_SAMPLING, set_sampling(ratio=0.5))
    assert (code, message) == (StatusCode.UNAVAILABLE, "it is being changed. Try again.")


def test_another_path_is_not_implemented(sampled: Sampled) -> None:
    assert Control(sampled)(f"/{SERVICE}/Other", b"")[0] == StatusCode.UNIMPLEMENTED


@given(st.sampled_from([GET_SAMPLING, SET_SAMPLING]), st.binary(max_size=40))
def test_any_message_is_answered(path: str, message: bytes) -> None:
    code, why, _ = Control(Sampled(InForce(1, Sampling())))(path, message)
    assert code in {StatusCode.OK, StatusCode.INVALID_ARGUMENT}
    assert (code == StatusCode.OK) == (why == "")


def test_every_method_of_the_definition_is_there(sampled: Sampled) -> None:
    (service,) = DESCRIPTOR.services_by_name.values()
    control = Control(sampled)
    for method in service.methods:
        assert control(f"/{service.full_name}/{method.name}", b"")[0] != StatusCode.UNIMPLEMENTED


# enricher sampling


class Calls(grpc.GenericRpcHandler):
    """Control behind grpcio, with or without a token."""

    def __init__(self, control: Control, token: str) -> None:
        self.control = control
        self.token = token

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        path = details.method
        shown = dict(details.invocation_metadata or ()).get("authorization", "")

        def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
            if self.token and shown != f"Bearer {self.token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
            code, why, answer = self.control(path, message)
            if code:
                context.abort(next(known for known in grpc.StatusCode if known.value[0] == code), why)
            return answer

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def served(sampled: Sampled, path: Path, token: str = "") -> Iterator[str]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, handlers=[Calls(Control(sampled), token)])
        address = f"unix://{path}"
        server.add_insecure_port(address)
        server.start()
        yield address
        server.stop(0).wait()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["sampling", *arguments])


def test_the_command_shows_and_changes(sampled: Sampled, tmp_path: Path) -> None:
    with served(sampled, tmp_path / "control.sock") as address:
        shown = run("--address", address)
        assert shown.exit_code == 0, shown.output
        assert "ratio          0.25" in shown.output
        assert "stands for 4." in shown.output
        changed = run("--address", address, "--ratio", "0", "--slow", "2s", "--json")
        assert changed.exit_code == 0, changed.output
        assert '"slow": "2s"' in changed.output
    assert sampled.now == InForce(8, Sampling(ratio=0, slow_ns=2_000_000_000, keep_errors=False))


def test_the_command_shows_its_token(sampled: Sampled, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with served(sampled, tmp_path / "control.sock", "secret") as address:
        assert run("--address", address, "--token-file", str(tmp_path / "token")).exit_code == 0
        refused = run("--address", address)
    assert refused.exit_code == 1
    assert "--token-file" in refused.output


def test_the_command_tells_why_it_was_refused(sampled: Sampled, tmp_path: Path) -> None:
    with served(sampled, tmp_path / "control.sock") as address:
        refused = run("--address", address, "--slow", "1ns")
    assert refused.exit_code == 1
    assert "outside 1ms to 24h" in refused.output


def test_the_command_says_so_where_nobody_answers(tmp_path: Path) -> None:
    found = run("--address", f"unix://{tmp_path}/nobody.sock")
    assert found.exit_code == 1
    assert "service.control" in found.output


def test_what_is_no_duration_is_not_sent() -> None:
    found = run("--slow", "soon")
    assert found.exit_code == 2
    assert "soon" in found.output
