"""Between the model and plain trees of mappings, lists and scalars (what YAML and JSON hold).

Everything here is derived from the model's annotations, so that a setting is declared in one place.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from enricher.config.problems import KeyPath, Problem
from enricher.config.values import Choice, Headers, Rejected, Secret, Texts, ValueType, nearest, shown

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a class of the model: a section of its own, or a value."""

    key: str
    field: str
    section: type[Any] | None
    value: ValueType | None
    needed: bool  # it has no default
    nullable: bool  # its default is None


_KNOWN: dict[type[Any], Mapping[str, Setting]] = {}  # hints are resolved once


def settings_of(model: type[Any]) -> Mapping[str, Setting]:
    """The settings of one class of the model by their keys in the file."""
    if model not in _KNOWN:
        hints = get_type_hints(model, include_extras=True)
        settings = (_setting(found, hints[found.name]) for found in fields(model))
        _KNOWN[model] = {setting.key: setting for setting in settings}
    return _KNOWN[model]


def _setting(found: "Field[Any]", hint: object) -> Setting:
    needed = found.default is MISSING and found.default_factory is MISSING
    nullable = found.default is None
    if get_origin(hint) is UnionType:
        (hint,) = (member for member in get_args(hint) if member is not NoneType)
    if is_dataclass(hint):
        section = hint if isinstance(hint, type) else None
        return Setting(found.name, found.name, section, None, needed, nullable)
    return Setting(found.name.removesuffix("_ns"), found.name, None, _value_type(hint), needed, nullable)


def _value_type(hint: object) -> ValueType:
    if get_origin(hint) is Literal:
        return Choice(get_args(hint))
    value_type: ValueType = get_args(hint)[1]  # Annotated[type, value type]
    return value_type


def build(model: type[Model], raw: object, path: KeyPath, problems: list[Problem]) -> Model | None:
    """A `model` of the plain tree `raw`, absent keys at their defaults; what is wrong goes to `problems`.

    None where something was wrong with it. A component with no value (`grpc:`) is one of defaults, as in the
    collector; another section with no value is as if it were not there.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        # What stands where a section with secrets belongs may be one.
        told = "a text" if isinstance(raw, str) and _has_secrets(model) else shown(raw)
        form = getattr(model, "FORM", None)
        fix = f"; write {form}" if form else ""
        problems.append(Problem(path, f"{told} is not a mapping of keys to values{fix}"))
        return None
    known = settings_of(model)
    found = len(problems)
    arguments: dict[str, object] = {}
    for key, raw_value in raw.items():
        setting = known.get(key)
        if setting is None:
            problems.append(_unknown(model, key, path))
        elif setting.section is not None:
            if raw_value is not None or getattr(model, "OF_COMPONENTS", False):
                arguments[setting.field] = build(setting.section, raw_value, (*path, key), problems)
        elif raw_value is None and setting.nullable:
            arguments[setting.field] = None
        elif setting.value is not None:
            arguments[setting.field] = _read(setting.value, raw_value, (*path, key), problems)
    lacking = [setting.key for setting in known.values() if setting.needed and setting.key not in raw]
    problems.extend(Problem((*path, key), "this is needed") for key in lacking)
    return model(**arguments) if len(problems) == found else None


def _has_secrets(model: type[Any]) -> bool:
    return any(isinstance(setting.value, Secret | Headers) for setting in settings_of(model).values())


def _read(value_type: ValueType, raw: object, path: KeyPath, problems: list[Problem]) -> object:
    if isinstance(value_type, Texts) and isinstance(raw, list):
        # Each item is read by itself, so that a problem names the line of its item.
        return tuple(_read_one(value_type.read_item, item, (*path, index), problems) for index, item in enumerate(raw))
    return _read_one(value_type.read, raw, path, problems)


def _read_one(read: Callable[[object], object], raw: object, path: KeyPath, problems: list[Problem]) -> object:
    try:
        return read(raw)
    except Rejected as error:
        problems.append(Problem(path, str(error)))
        return None


def _unknown(model: type[Any], key: str, path: KeyPath) -> Problem:
    known = tuple(settings_of(model))
    elsewhere = getattr(model, "ELSEWHERE", {}).get(_kind(key))
    near = nearest(key, known)
    if elsewhere:
        message = f"not known here: {elsewhere}"
    elif _kind(key) in known and _kind(key) != key:
        message = f"there is one {_kind(key)} here, without a name of its own: write {_kind(key)}"
    elif near:
        message = f"unknown key, did you mean {near}?"
    elif place := _place_of(key):
        message = f"unknown key here, it belongs under {place}"
    elif known:
        message = f"unknown key, the known ones are {', '.join(known)}"
    else:
        message = "unknown key, there are none here"
    return Problem((*path, key), message, nearest=near)


def _kind(key: str) -> str:
    """Of a component as the collector names it: `otlp/second` is of the kind otlp."""
    return key.partition("/")[0]


def _place_of(key: str) -> str | None:
    """The sections that have this key, where they are few."""
    from enricher.config.model import Settings

    places = [section for section, found in all_keys(Settings) if found == key]
    return " or ".join(places) if 1 <= len(places) <= 2 else None


def all_keys(model: type[Any], section: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path of the section, key) of every key there is, sections as well."""
    for setting in settings_of(model).values():
        yield section, setting.key
        if setting.section is not None:
            yield from all_keys(setting.section, f"{section}.{setting.key}".lstrip("."))


def plain(model: object, *, mask: bool = False) -> dict[str, object]:
    """The tree that `build` makes this very `model` of; every key is in it, absent components are not.

    `mask`: secrets are replaced, for people to look at.
    """
    tree: dict[str, object] = {}
    for setting in settings_of(type(model)).values():
        value = getattr(model, setting.field)
        if setting.value is None:
            if value is not None:
                tree[setting.key] = plain(value, mask=mask)
        elif mask and isinstance(setting.value, Secret | Headers):
            tree[setting.key] = setting.value.masked(value)
        else:
            tree[setting.key] = None if value is None else setting.value.plain(value)
    return tree


def values_of(model: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, ValueType, object]]:
    """Path, type and value of every setting of `model` that has a value."""
    for setting in settings_of(type(model)).values():
        value = getattr(model, setting.field)
        if value is not None and setting.value is None:
            yield from values_of(value, (*path, setting.key))
        elif value is not None and setting.value is not None:
            yield (*path, setting.key), setting.value, value
