"""Whether a file that is about to be loaded as code is ours alone: who else could have written it, or its folder."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from .errors import TmacError


def check_own(path: Path, folders: list[Path]) -> None:
    """Raises TmacError if another user than this one or root owns `path` or one of `folders`, or may write to it."""
    if sys.platform == "win32":  # The user's folders there are not open to others, and modes say nothing.
        return
    for place in (*folders, path):
        facts = place.stat()
        if facts.st_uid not in (os.geteuid(), 0):
            raise _refusal(path, f"{place} belongs to {_name_of(facts.st_uid)}")
        if facts.st_mode & stat.S_IWOTH or (facts.st_mode & stat.S_IWGRP and not _is_private(facts)):
            raise _refusal(path, f"others can write to {place} (mode {stat.S_IMODE(facts.st_mode):o})")


def close_to_others(path: Path) -> None:
    """Takes the permission to write from all but the owner, whatever the umask."""
    if sys.platform != "win32":
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))


def _is_private(facts: os.stat_result) -> bool:
    """Whether the group is that of the owner alone, as many systems make one for each user."""
    import grp
    import pwd

    try:
        owner, group = pwd.getpwuid(facts.st_uid), grp.getgrgid(facts.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == group.gr_gid and owner.pw_name == group.gr_name and set(group.gr_mem) <= {owner.pw_name}


def _name_of(user: int) -> str:
    import pwd

    try:
        return f"the user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"the user {user}"


def _refusal(path: Path, why: str) -> TmacError:
    return TmacError(
        f"{path} is not loaded: {why}, so it may hold code of others",
        "delete it, or take the permission to write from others (chmod go-w); or set TMAC_HOME to a folder of your own",
    )
