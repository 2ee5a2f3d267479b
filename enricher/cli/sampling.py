"""`enricher sampling`: how a running enricher samples, and changing it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, cast

import click

from enricher.config import durations
from enricher.errors import EnricherError
from enricher.sampling.threshold import adjusted_count, threshold_of

if TYPE_CHECKING:
    import grpc

    from enricher.control.v1.control_pb2 import Sampling

ASK_TIMEOUT_S: Final = 5.0


class CannotControl(EnricherError):
    """No enricher answers, or it does not do what it is told."""

    code: ClassVar[str] = "cannot_control"


@click.command("sampling")
@click.option("--ratio", type=click.FloatRange(0, 1), help="Of the spans that nothing else keeps, keep so many.")
@click.option("--slow", metavar="DURATION", help="Keep spans that take as long as this, such as 500ms.")
@click.option(
    "--address",
    default="127.0.0.1:4319",
    show_default=True,
    metavar="ENDPOINT",
    help="service.control.endpoint of the running enricher: HOST:PORT or unix:///PATH.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Holds the bearer token, where service.control.auth wants one.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def command(ratio: float | None, slow: str | None, address: str, token_file: Path | None, as_json: bool) -> None:
    """Show how a running enricher samples; with --ratio or --slow, change it.

    A change holds for all its workers from their next requests on, until the next one or until it ends. The
    configuration file is not changed.
    """
    slow_ns = None
    if slow is not None:
        try:
            slow_ns = durations.parse(slow)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--slow") from error
    token = token_file.read_text().splitlines()[0].strip() if token_file and token_file.stat().st_size else ""
    now = asked(address, token, ratio, slow_ns)
    threshold = threshold_of(now.ratio)
    told = {
        "ratio": now.ratio,
        "slow": durations.render(now.slow.ToNanoseconds()),
        "keep_errors": now.keep_errors,
        "keep_evidence": now.keep_evidence,
        "threshold": now.threshold,
        "generation": now.generation,
    }
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for key, value in told.items():
        click.echo(f"{key:<14} {json.dumps(value) if isinstance(value, bool) else value}")
    if 0 < now.ratio < 1:
        click.echo(f"Each span that the ratio keeps stands for {adjusted_count(threshold):.6g}.")


def asked(address: str, token: str, ratio: float | None, slow_ns: int | None) -> "Sampling":
    """What is in force now, after what is not None was changed. Raises CannotControl."""
    from enricher.control.service import GET_SAMPLING, SET_SAMPLING
    from enricher.control.v1.control_pb2 import (
        GetSamplingRequest,
        GetSamplingResponse,
        SetSamplingRequest,
        SetSamplingResponse,
    )

    if ratio is None and slow_ns is None:
        answer = called(address, token, GET_SAMPLING, GetSamplingRequest().SerializeToString())
        return GetSamplingResponse.FromString(answer).sampling
    asking = SetSamplingRequest(ratio=ratio)
    if slow_ns is not None:
        asking.slow.FromNanoseconds(slow_ns)
    return SetSamplingResponse.FromString(called(address, token, SET_SAMPLING, asking.SerializeToString())).sampling


def called(address: str, token: str, path: str, message: bytes) -> bytes:
    """The encoded answer. Raises CannotControl."""
    import grpc

    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(address) as channel:
        try:
            answer: bytes = channel.unary_unary(path, bytes, bytes)(message, timeout=ASK_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)  # which it is, says gRPC's documentation
            fix = {
                grpc.StatusCode.UNAVAILABLE: "see that `enricher run` runs with service.control, and give --address as there",
                grpc.StatusCode.UNAUTHENTICATED: "give --token-file with the token of service.control.auth",
            }.get(call.code(), "")
            raise CannotControl(f"{address}: {call.details() or call.code().name}", fix=fix) from error
    return answer
