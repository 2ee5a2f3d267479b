"""The YAML file as a plain tree, with the line of every key.

YAML 1.2's core schema: only true and false are booleans (`go_sdk: off` is the word off), nothing is a date,
and 1:30 is a text. `${env:VAR}` and `${env:VAR:-default}` expand in values, `$$` stands for one `$`. A key
given twice is an error: with most readers the last one wins in silence.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from enricher.config.problems import ConfigError, KeyPath, Problem
from enricher.config.values import Expanded, Rejected, shown

MOST_CHARACTERS: Final = 1 << 20
MOST_NODES: Final = 20_000  # aliases of aliases grow without bound

_TAG: Final = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT, _STR = (_TAG + name for name in ("null", "bool", "int", "float", "str"))
_SCALARS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    _NULL: (r"~|null|Null|NULL|", lambda _: None),
    _BOOL: (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    _INT: (r"[-+]?[0-9]{1,20}", int),
    _FLOAT: (r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", float),
}
_KNOWN_TAGS: Final = frozenset({_STR, *_SCALARS, _TAG + "map", _TAG + "seq"})

_REFERENCE: Final = re.compile(r"\$(?:\$|\{(?P<inside>[^}]*)\})")
_VARIABLE: Final = re.compile(r"env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Document:
    """`lines` has the line, from 1, of every key and list item of `tree`.

    Where `problems` has something about a path, `tree` holds nothing sensible there.
    """

    source: str
    tree: dict[str, object]
    lines: Mapping[KeyPath, int]
    problems: Sequence[Problem] = ()

    def line_of(self, path: KeyPath) -> int | None:
        """The line of `path`, or of the nearest thing around it that is in the file."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML up to its nodes, with the core schema in place of YAML 1.1's."""

    yaml_implicit_resolvers: ClassVar[dict[str | None, list[tuple[str, re.Pattern[str]]]]] = {  # type: ignore[misc]
        None: [(tag, re.compile(rf"(?:{pattern})\Z")) for tag, (pattern, _) in _SCALARS.items()]
    }

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)


def read(text: str, source: str, environ: Mapping[str, str]) -> Document:
    """The tree of `text`, references expanded from `environ`. `source` names it in messages.

    Raises ConfigError where it cannot be told as a tree.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError([Problem((), f"longer than {MOST_CHARACTERS} characters", source=source)])
    try:
        root = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax(error, text, source)]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError([Problem((), f"not YAML: {_one_line(str(error))}", source=source)]) from error
    reader = _TreeReader(source, environ)
    try:
        tree = reader.read(root, ()) if root is not None else None
    except RecursionError as error:
        raise ConfigError([Problem((), "nested too deeply, or an alias holds itself", source=source)]) from error
    if not isinstance(tree, dict | None):
        message = f"{shown(tree)} is not a mapping of keys to values"
        raise ConfigError([Problem((), message, source=source, line=1)])
    return Document(source, tree or {}, reader.lines, reader.problems)


class _TreeReader:
    def __init__(self, source: str, environ: Mapping[str, str]) -> None:
        self.source = source
        self.environ = environ
        self.problems: list[Problem] = []
        self.lines: dict[KeyPath, int] = {}
        self.nodes = 0

    def read(self, node: Node, path: KeyPath) -> object:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise ConfigError([Problem((), f"holds more than {MOST_NODES} values", source=self.source)])
        if node.tag not in _KNOWN_TAGS:
            self._problem(path, f"the tag {node.tag.replace(_TAG, '!!')} is not known here", node)
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                self.lines[*path, index] = _line(item)
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)  # there are no other kinds
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._problem(path, "a key must be a word", key_node)
                continue
            key = str(key_node.value)
            if key in mapping:
                self._problem((*path, key), f"given twice, first on line {self.lines[*path, key]}", key_node)
                continue
            self.lines[*path, key] = _line(key_node)
            mapping[key] = self.read(value_node, (*path, key))
        return mapping

    def _scalar(self, node: ScalarNode, path: KeyPath) -> object:
        text = str(node.value)
        if "$" in text:
            try:
                return Expanded(expand(text, self.environ))
            except Rejected as error:
                self._problem(path, str(error), node)
                return None
        if node.tag == _STR:
            return text
        pattern, value_of = _SCALARS[node.tag]
        if not re.fullmatch(pattern, text):
            self._problem(path, f"{shown(text)} is not of the type its tag says", node)
            return None
        return value_of(text)

    def _problem(self, path: KeyPath, message: str, node: Node) -> None:
        self.problems.append(Problem(path, message, source=self.source, line=_line(node)))


def expand(text: str, environ: Mapping[str, str]) -> str:
    """`text` with its references replaced. Raises Rejected that names the one which cannot be."""

    def value(reference: re.Match[str]) -> str:
        inside = reference["inside"]
        if inside is None:
            return "$"
        variable = _VARIABLE.fullmatch(inside)
        if variable is None:
            wanted = f"; write ${{env:{inside}}}" if inside.isidentifier() else "; only ${env:NAME} is known"
            raise Rejected(f"${{{inside}}} cannot be expanded{wanted}")
        name, default = variable["name"], variable["default"]
        if name in environ:
            return environ[name]
        if default is None:
            example = f"${{env:{name}:-default}}"
            raise Rejected(f"the environment variable {name} is not set; set it, or write a default, {example}")
        return default[2:]

    return _REFERENCE.sub(value, text)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax(error: yaml.MarkedYAMLError, text: str, source: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    message = f"not YAML: {_one_line(error.problem or error.context or str(error))}"
    lines = text.splitlines()
    if line is not None and line <= len(lines) and "${" in lines[line - 1]:
        message += "; inside { } put ${env:NAME} in quotes"
    return Problem((), message, source=source, line=line)


def _one_line(text: str) -> str:
    return " ".join(text.split())
