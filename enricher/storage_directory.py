"""The directory of a queue on disk: made, and given to the user that the pipeline runs as, before it becomes that."""

import os
from pathlib import Path
from typing import Final

from enricher.config.model import OtlpExporter, Settings
from enricher.otlp.durable_errors import StorageUnusable
from enricher.privileges import pipeline_ids

_MODE: Final = 0o700


def prepare(settings: Settings) -> None:
    """Raises StorageUnusable. Nothing is done where no queue is on disk."""
    exporter = settings.exporter
    if not isinstance(exporter, OtlpExporter) or exporter.sending_queue.storage is None:
        return
    directory = Path(exporter.sending_queue.storage.directory)
    try:
        directory.mkdir(mode=_MODE, exist_ok=True)
        # Not by its name: what is opened now is what is given away, and no link that stands there instead.
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if ids := pipeline_ids():
                os.fchown(fd, *ids)
        finally:
            os.close(fd)
    except OSError as error:
        fix = "Set sending_queue.storage.directory to one of its own, in a directory that is there."
        raise StorageUnusable(directory, error.strerror or str(error), fix=fix) from error
