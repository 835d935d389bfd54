"""How a command ends that is not done: errors a user can mend, and interruption."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import os

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells have it."""


class UserError(Exception):
    """Says in one line what to mend; ends with status 2 and without a traceback."""


@contextlib.contextmanager
def mendable(kinds=(OSError, ValueError), about=None):
    """Turn exceptions of these kinds into `UserError`; `about`: a file that they do not name."""
    try:
        yield
    except BrokenPipeError:
        raise
    except kinds as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        elif about is not None:
            text = f"{about}: {text}"
        raise UserError(" ".join(text.split())) from error


def require_writable(path):
    """Say so at once, not after an hour of training, when `path` cannot be written."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise UserError(f"{path}: is a directory, expected a file to write")
    if not os.path.isdir(folder):
        raise UserError(f"{path}: the directory {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path}: the directory {folder} is not writable")


def require_apart(path, *sources):
    """Refuse to write over a file that is read; sources that are None are left out."""
    for source in sources:
        both = bool(source) and os.path.exists(path) and os.path.exists(source)
        if both and os.path.samefile(path, source):
            raise UserError(f"{path}: is the file to read, expected another one to write")
