"""Reading the configuration: defaults < file < environment."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from enricher.config import environment
from enricher.config.conflicts import TRACES, conflicts
from enricher.config.model import Settings
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
    _name_exporter(document.tree)
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

    The environment speaks of the exporter otlp_grpc where the file configures it, and names it where the file
    names no exporter at all. A file that asks for the terminal gets the terminal.
    """
    if not tree.get("exporters"):
        named = _section(tree, TRACES).get("exporters")
        by_environment = environment.names_backend(environ) and (not named or named == ["otlp_grpc"])
        tree["exporters"] = {"otlp_grpc": {}} if by_environment else {"terminal": {}}
    exporters = tree["exporters"]
    if not isinstance(exporters, dict) or "otlp_grpc" not in exporters:
        return {}
    if exporters["otlp_grpc"] is None:
        exporters["otlp_grpc"] = {}
    exporter = exporters["otlp_grpc"]
    variables: dict[KeyPath, str] = {}
    if isinstance(exporter, dict):
        for override in environment.overrides(environ, problems):
            exporter[override.path[-1]] = override.value
            variables[override.path] = override.variable
    return variables


def _name_exporter(tree: dict[str, object]) -> None:
    """A pipeline that names no exporter has the one that is configured."""
    exporters = tree["exporters"]
    if not isinstance(exporters, dict) or "exporters" in _section(tree, TRACES):
        return
    at = tree
    for key in TRACES:
        if at.get(key) is None:
            at[key] = {}
        section = at[key]
        if not isinstance(section, dict):
            return  # `build` tells what is wrong with it
        at = section
    at["exporters"] = [name for name in exporters if name in ("otlp_grpc", "terminal")]


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
