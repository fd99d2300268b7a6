"""The one error that users are meant to read."""


class WorkbookError(Exception):
    """A problem that the user can mend.

    The message is one line: what is wrong, in which file, and what to do about it. The command line
    prints it alone; a notebook does too, because IPython asks an exception how it wants to be shown.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
