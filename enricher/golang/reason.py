"""Why something about a Go binary is not known."""

from dataclasses import dataclass
from enum import StrEnum


class ReasonCode(StrEnum):
    """Stable words for logs, metrics and scripts."""

    GO_VERSION_UNKNOWN = "go_version_unknown"
    MODULES_ABSENT = "modules_absent"
    SDK_ABSENT = "sdk_absent"
    SDK_REPLACED = "sdk_replaced"
    SDK_VERSION_UNKNOWN = "sdk_version_unknown"
    FUNCTIONS_UNREADABLE = "functions_unreadable"
    FUNCTION_ABSENT = "function_absent"
    PROBE_POINT_UNKNOWN = "probe_point_unknown"
    CLIENT_VERSION_UNKNOWN = "client_version_unknown"


@dataclass(frozen=True, slots=True)
class Reason:
    """`code` for programs, `sentence` for people (no full stop at its end)."""

    code: ReasonCode
    sentence: str

    def __str__(self) -> str:
        return self.sentence
