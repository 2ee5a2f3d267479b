"""The list of match methods, and what is told of it."""

import re
from dataclasses import fields
from pathlib import Path

from enricher.config.model import Probes
from enricher.join import methods
from enricher.join.methods.origin import Origins
from tests.unit.evidence_log import Log

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| .+ \| (yes|no) \|$", re.MULTILINE)


def test_the_architecture_page_lists_the_methods_in_their_order() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    listed = ROW.findall(text.partition("## Match methods, best first")[2].partition("\n## ")[0])
    assert listed == [(method.name, "yes" if method.exact else "no") for method in methods.registry()]


def test_each_method_has_a_place_in_the_order_and_works_by_its_own_name() -> None:
    with Log() as log:
        working = [made.method for made in methods.build(log.index, Origins(log.index, ""))]
    assert working == [method for method in methods.registry() if method.name != "connection"]


def test_what_they_need_are_probes_that_can_be_configured() -> None:
    known = {setting.name for setting in fields(Probes)}
    assert {probe for method in methods.registry() for probe in method.needs} <= known
