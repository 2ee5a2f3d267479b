"""Between the model and plain trees of mappings, lists and scalars (what YAML and JSON hold).

Everything here is derived from the model's annotations, so that a setting is declared in one place.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from enricher.config.problems import KeyPath, Problem
from enricher.config.values import Choice, Rejected, Texts, ValueType, nearest, shown

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a class of the model: a section of its own, or a value."""

    key: str
    field: str
    section: type[Any] | None
    value: ValueType | None


def settings_of(model: type[Any]) -> Mapping[str, Setting]:
    """The settings of one class of the model by their keys in the file."""
    hints = get_type_hints(model, include_extras=True)
    settings = (_setting(field.name, hints[field.name]) for field in fields(model))
    return {setting.key: setting for setting in settings}


def _setting(field: str, hint: object) -> Setting:
    if get_origin(hint) is UnionType:
        (hint,) = (member for member in get_args(hint) if member is not NoneType)
    if is_dataclass(hint):
        return Setting(field, field, section=hint if isinstance(hint, type) else None, value=None)
    return Setting(field.removesuffix("_ns"), field, section=None, value=_value_type(hint))


def _value_type(hint: object) -> ValueType:
    if get_origin(hint) is Literal:
        return Choice(get_args(hint))
    if get_origin(hint) is tuple:
        return Texts(of=Choice(get_args(get_args(hint)[0])))
    value_type: ValueType = get_args(hint)[1]  # Annotated[type, value type]
    return value_type


def build(model: type[Model], raw: object, path: KeyPath, problems: list[Problem]) -> Model | None:
    """A `model` of the plain tree `raw`, absent keys at their defaults; what is wrong goes to `problems`.

    None where something was wrong with it. A section with no value (`grpc:`) is one of defaults, as in the
    collector.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        problems.append(Problem(path, f"{shown(raw)} is not a mapping of keys to values"))
        return None
    known = settings_of(model)
    found = len(problems)
    arguments: dict[str, object] = {}
    for key, raw_value in raw.items():
        setting = known.get(key)
        if setting is None:
            problems.append(_unknown(model, key, path))
        elif setting.section is not None:
            arguments[setting.field] = build(setting.section, raw_value, (*path, key), problems)
        elif setting.value is not None:
            arguments[setting.field] = _read(setting.value, raw_value, (*path, key), problems)
    return model(**arguments) if len(problems) == found else None


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
    missing = getattr(model, "MISSING", {}).get(key)
    near = nearest(key, known)
    if missing:
        message = missing
    elif near:
        message = f"unknown key, did you mean {near}?"
    elif elsewhere := _place_of(key):
        message = f"unknown key here, it belongs under {elsewhere}"
    elif known:
        message = f"unknown key, the known ones are {', '.join(known)}"
    else:
        message = "unknown key, there are none here"
    return Problem((*path, key), message, nearest=near)


def _place_of(key: str) -> str | None:
    """The section that has this key, where one and only one has."""
    from enricher.config.model import Settings

    places = [section for section, found in all_keys(Settings) if found == key]
    return places[0] if len(places) == 1 else None


def all_keys(model: type[Any], section: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path of the section, key) of every key there is, sections as well."""
    for setting in settings_of(model).values():
        yield section, setting.key
        if setting.section is not None:
            yield from all_keys(setting.section, f"{section}.{setting.key}".lstrip("."))


def plain(model: object) -> dict[str, object]:
    """The tree that `build` makes this very `model` of; every key is in it, absent components are not."""
    tree: dict[str, object] = {}
    for setting in settings_of(type(model)).values():
        value = getattr(model, setting.field)
        if setting.value is not None:
            tree[setting.key] = setting.value.plain(value)
        elif value is not None:
            tree[setting.key] = plain(value)
    return tree
