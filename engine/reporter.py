"""How running work tells what it does."""


class Reporter:
    """Hears about a running piece of work. This one does nothing; the pool's sends the reports home.

    Long work calls `progress` often: it is also the place where a cancelled run stops.
    """

    def progress(self, fraction: float, message: str = "") -> None:
        """`fraction` 0..1 of the work is done. Raises `engine.errors.Cancelled` when the run was cancelled."""

    def log(self, message: str) -> None:
        """A line for the run's log."""

    def metric(self, name: str, value: float) -> None:
        """A figure worth following while the work goes on."""
