"""Disks that are full, and folders that may not be written, for the time of a `with`."""

import contextlib
import os
import resource


@contextlib.contextmanager
def small_files(limit):
    """No file may grow beyond so many bytes: as real as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def as_nobody():
    """The superuser may write everywhere; someone else may not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
