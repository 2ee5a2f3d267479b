"""`enricher components`: what this version is made of, out of the components' own declarations."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import click

from enricher.cli.layout import definition, heading, wrapped
from enricher.config.model import Exporters, Processors, Receivers
from enricher.config.tree import settings_of


class AttributeDeclaration(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def meaning(self) -> str: ...


class CauseDeclaration(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def needs(self) -> Iterable[str]: ...
    @property
    def attributes(self) -> Iterable[AttributeDeclaration]: ...


class MethodDeclaration(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def exact(self) -> bool: ...
    @property
    def needs(self) -> Iterable[str]: ...


@click.command("components")
def command() -> None:
    """List receivers, processors, exporters, match methods and causes.

    `needs` are probes, by their names under processors.ebpf.probes.
    """
    from enricher import causes
    from enricher.join import methods

    for line in report(methods.registry(), causes.registry()):
        click.echo(line)


def report(methods: Iterable[MethodDeclaration], causes: Iterable[CauseDeclaration]) -> Iterator[str]:
    for title, kind in (("Receivers", Receivers), ("Processors", Processors), ("Exporters", Exporters)):
        yield heading(title)
        yield from _configurable(kind)
        yield ""
    yield heading("Match methods, best first")
    for method in methods:
        yield from definition(method.name, f"{'exact' if method.exact else 'not exact'}: {method.summary}")
        yield from definition("", f"needs: {', '.join(method.needs) or 'nothing'}")
    yield ""
    yield heading("Causes")
    for cause in causes:
        yield from definition(cause.name, cause.summary)
        yield from definition("", f"needs: {', '.join(cause.needs) or 'nothing'}")
        for attribute in cause.attributes:
            unit = f", {attribute.unit}" if attribute.unit else ""
            yield f"    {attribute.name} ({attribute.type}{unit})"
            yield from wrapped(attribute.meaning, indent=8)


def _configurable(kind: type[Any]) -> Iterator[str]:
    for setting in settings_of(kind).values():
        yield from definition(setting.key, getattr(setting.section, "SUMMARY", ""))
