"""What to do when the machine gives no more open files or processes."""

from __future__ import annotations

import errno
import resource

#: So fails what may work a moment later, or with higher limits.
SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})


def is_scarcity(error: BaseException) -> bool:
    """Return whether something failed only because there is no more of it at the moment."""
    return isinstance(error, OSError) and error.errno in SCARCE


def way_out(error: BaseException) -> str:
    """Return what to do about an error that comes of a limit, as a sentence without its full stop; "" for others."""
    if not isinstance(error, OSError):
        return ""
    if error.errno == errno.EMFILE:
        many = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"This process may have {many} files open: start it after `ulimit -n 4096`, or fewer services at a time"
    if error.errno == errno.EAGAIN:
        many = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        limit = "" if many == resource.RLIM_INFINITY else f" (this user: {many})"
        return f"There may be no more processes{limit}: raise `ulimit -u`, or start fewer services at a time"
    return ""
