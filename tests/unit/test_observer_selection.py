"""Who is watched."""

import pytest

from enricher.config.model import Select
from enricher.observer.inspection import GoProgram, Inspected, NotGo, Uninspected
from enricher.observer.selection import Candidate, Verdict, decide


def go(sdk: str | None = "v1.47.0", *, collector: bool = False) -> GoProgram:
    return GoProgram(go_version="1.26.1", sdk_version=sdk, is_collector=collector, layout=None, targets=(), lacks=())


@pytest.mark.parametrize(
    ("inspected", "verdict"),
    [
        (go(), Verdict.GO_SDK),
        (go(sdk=None), Verdict.NOT_SELECTED),
        (go(collector=True), Verdict.COLLECTOR),
        (go(sdk=None, collector=True), Verdict.NOT_SELECTED),
        (NotGo(), Verdict.NOT_SELECTED),
        (Uninspected("broken"), Verdict.NOT_SELECTED),
    ],
)
def test_without_configuration_only_go_programs_with_the_sdk_that_are_no_collectors(
    inspected: Inspected, verdict: Verdict
) -> None:
    assert decide(Candidate("/app", "/", inspected), Select()) is verdict


@pytest.mark.parametrize("inspected", [go(), go(collector=True), NotGo(), Uninspected("broken")])
@pytest.mark.parametrize(
    ("select", "verdict"),
    [
        (Select(executables=("/srv/*",)), Verdict.SELECTED),
        (Select(executables=("/srv/app",)), Verdict.SELECTED),
        (Select(cgroups=("/kubepods",)), Verdict.SELECTED),
        (Select(cgroups=("/kubepods/",)), Verdict.SELECTED),
        (Select(cgroups=("/*/pod1",)), Verdict.SELECTED),
        (Select(cgroups=("/kubepods/pod1/*",)), Verdict.SELECTED),
        (Select(exclude=("/srv/*",)), Verdict.EXCLUDED),
        (Select(exclude=("*/app",), executables=("/srv/app",), cgroups=("/kubepods",)), Verdict.EXCLUDED),
    ],
)
def test_exclusion_wins_then_selection(inspected: Inspected, select: Select, verdict: Verdict) -> None:
    assert decide(Candidate("/srv/app", "/kubepods/pod1/c1", inspected), select) is verdict


@pytest.mark.parametrize(
    "select",
    [
        Select(executables=("/srv/App", "app", "/srv")),
        Select(cgroups=("/kube", "kubepods", "/kubepods/pod2", "/kubepods/pod1/c1/x")),
        Select(exclude=("/opt/*",)),
    ],
)
def test_a_pattern_that_does_not_match_changes_nothing(select: Select) -> None:
    assert decide(Candidate("/srv/app", "/kubepods/pod1/c1", NotGo()), select) is Verdict.NOT_SELECTED


def test_only_two_verdicts_watch() -> None:
    assert {verdict for verdict in Verdict if verdict.watch} == {Verdict.GO_SDK, Verdict.SELECTED}
