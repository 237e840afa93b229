"""The loader of whatever lies in files: read, judge, and have OpenSSL confirm it."""

from datetime import datetime
from pathlib import Path

from common.certificates.judging import judge
from common.certificates.model import Judgement, Role, Source
from common.certificates.reading import FileSet, read_files
from common.certificates.tls import confirmed


def load(directory: Path, role: Role, *, now: datetime, source: Source) -> Judgement:
    """Judge the files of a role in a directory.

    Args:
        directory: Where they lie, by their names of product facts §1.
        role: The side they are for.
        now: The instant at which the set is to be used; aware.
        source: What the directory is: the operator's, or a view of generated sets.
    """
    return judge_files(read_files(directory, role), now=now, source=source)


def judge_files(files: FileSet, *, now: datetime, source: Source) -> Judgement:
    """Judge what was read before, as `load` does.

    Args:
        files: What was read.
        now: The instant at which the set is to be used; aware.
        source: Where it came from.
    """
    return confirmed(judge(files, now=now, source=source))
