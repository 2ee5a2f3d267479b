"""Reading the configuration: defaults < file < environment."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from enricher.config import environment
from enricher.config.conflicts import TRACES, conflicts
from enricher.config.model import ExporterName, Settings
from enricher.config.problems import ConfigError, KeyPath, Problem
from enricher.config.tree import build
from enricher.config.yaml_file import Document, read


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of the file at `path` (None: no file) and of `environ`.

    Raises ConfigError with all that is wrong, each problem with its line or environment variable.
    """
    document = _document(path, environ)
    problems = list(document.problems)
    known = {problem.path for problem in problems}
    variables = _apply(environ, document.tree, problems)
    _name_components(document.tree)
    settings = build(Settings, document.tree, (), problems)
    if settings is not None:
        problems.extend(conflicts(settings))
    if settings is None or problems:
        # What could not be read was told already; that it has no value now is no news.
        new = [problem for problem in problems if problem.source or problem.path not in known]
        placed = [_place(problem, document, variables) for problem in new]
        raise ConfigError(sorted(placed, key=lambda problem: (problem.line or 0, problem.key)))
    return settings


def _document(path: Path | None, environ: Mapping[str, str]) -> Document:
    if path is None:
        return Document("", {}, {})
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem((), f"cannot be read: {error.strerror}", source=str(path))]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem((), f"not UTF-8 at byte {error.start}", source=str(path))]) from error
    return read(text, str(path), environ)


def _apply(environ: Mapping[str, str], tree: dict[str, object], problems: list[Problem]) -> dict[KeyPath, str]:
    """Put into `tree` what the environment says; the variable of each path that it set.

    The environment speaks of the exporter of OTLP that the pipeline has, and names one where the file names no
    exporter at all. A file that asks for the terminal gets the terminal.
    """
    named = _section(tree, TRACES).get("exporters")
    if not tree.get("exporters"):
        name = environment.exporter_of(environ)
        if isinstance(named, list) and named:
            name = named[0] if name and len(named) == 1 and named[0] in environment.EXPORTERS else None
        tree["exporters"] = {name or "terminal": {}}
    exporters = tree["exporters"]
    if not isinstance(exporters, dict):
        return {}
    meant = [
        name
        for name in environment.EXPORTERS
        if name in exporters and (not isinstance(named, list) or name in named)
    ]  # fmt: skip
    variables: dict[KeyPath, str] = {}
    if len(meant) != 1:
        return variables
    exporter = exporters[meant[0]]
    for override in environment.overrides(environ, meant[0], exporter, problems):
        if _put(tree, override.path, override.value):
            variables[override.path] = override.variable
    return variables


def _put(tree: dict[str, object], path: KeyPath, value: object) -> bool:
    """Sets what is at `path`. False: something else than a section is on the way, which `build` tells."""
    at = tree
    for key in path[:-1]:
        if at.get(str(key)) is None:
            at[str(key)] = {}
        section = at[str(key)]
        if not isinstance(section, dict):
            return False
        at = section
    at[str(path[-1])] = value
    return True


def _name_components(tree: dict[str, object]) -> None:
    """A pipeline that does not name its exporter or its processors has those that are configured."""
    exporters, processors = tree["exporters"], tree.get("processors")
    named = _section(tree, TRACES)
    if isinstance(exporters, dict) and "exporters" not in named:
        _put(tree, (*TRACES, "exporters"), [name for name in exporters if name in get_args(ExporterName)])
    if isinstance(processors, dict) and "sampling" in processors and "processors" not in named:
        _put(tree, (*TRACES, "processors"), ["ebpf", "sampling"])


def _section(tree: dict[str, object], path: tuple[str, ...]) -> dict[str, object]:
    section: object = tree
    for key in path:
        section = section.get(key) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else {}


def _place(problem: Problem, document: Document, variables: Mapping[KeyPath, str]) -> Problem:
    if problem.source:
        return problem
    variable = variables.get(problem.path)
    if variable is not None:
        return replace(problem, source=variable)
    return replace(problem, source=document.source, line=document.line_of(problem.path))
