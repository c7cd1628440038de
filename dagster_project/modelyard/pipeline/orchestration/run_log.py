"""What a run prints as it goes, and the log that it keeps."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg


def progress(log: Path) -> "dg.LoggerDefinition":
    """A Dagster logger: short lines in the terminal, everything in the file `log`."""
    import dagster as dg

    @dg.logger
    def logger(_: dg.InitLoggerContext) -> logging.Logger:
        both = logging.Logger(__name__)
        file = logging.FileHandler(log)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        both.addHandler(file)
        both.addHandler(_Lines())
        return both

    return logger


def say(text: str) -> None:
    print(text, flush=True)


class _Lines(logging.Handler):
    """Each step as it begins, and with its seconds and key figures when it ends well."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        event: dg.DagsterEvent | None = getattr(record, "dagster_meta", {}).get("dagster_event")
        kind = event.event_type_value if event else ""
        if event is None:
            return
        if kind == "STEP_START":
            self.figures = []
            say(f"{event.step_key} …")
        elif kind == "ASSET_MATERIALIZATION":
            made = event.step_materialization_data.materialization
            summary = made.metadata.get("summary")
            figure = (made.asset_key.to_user_string(), str(summary.value) if summary else "")
            if figure not in self.figures:  # one event a partition, one line an asset
                self.figures.append(figure)
        elif kind == "ASSET_CHECK_EVALUATION":
            check = event.asset_check_evaluation_data
            self.figures.append((check.check_name, check.description or ""))
        elif kind == "STEP_SUCCESS":
            took = f"{event.step_success_data.duration_ms / 1000:5.1f} s"
            for name, text in self.figures:
                say(f"{took:7}  {name:17} {text}")
                took = ""
