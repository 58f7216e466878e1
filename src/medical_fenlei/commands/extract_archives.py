"""Extract the archives: outer zips, then the split volumes in them, in parallel. A run that was stopped can be continued.

    JOBS=30 THREADS=30 tools/extract_all.sh
    tail -f logs/extract_all.log

Volumes (a.zip.001, a.zip.002, …) are copied out of the zips in archives/ into archives/volumes/, or read from archives/ if they
lie there already; their content goes to data/medical_data_2/. Needs Python only; members in a compression method that Python
lacks need 7-Zip. Before a stage writes anything, it checks the names of its members, how far they expand and the free space.
logs/extract_all_rejects.csv lists what could not be extracted.

Exits with status 0 when everything is extracted, 2 for unusable input, 3 if some members were left out, 75 when stopped by a
signal.
"""
import contextlib
import csv
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from medical_fenlei import cli, parallel
from medical_fenlei.archives.extract import INSTALL_SEVEN_ZIP, extract_all
from medical_fenlei.archives.unpack import Reject
from medical_fenlei.errors import Stopped, UserError
from medical_fenlei.files import atomic, csv_quoting
from medical_fenlei.log import LOG, log_to_file
from medical_fenlei.reasons import remedy

_BY_A_SIGNAL = "by a signal; what was extracted is kept, run it again to continue"


def report(rejects: Sequence[Reject], path: Path) -> int:
    """Write the members that were left out to a CSV, log how many and why, and return the exit status."""
    with atomic(path, "w") as file:
        names = (text for reject in rejects for text in (reject.archive, reject.member, reject.detail))
        table = csv.writer(file, lineterminator="\n", quoting=csv_quoting(names))  # type: ignore[arg-type]
        table.writerow(("exam_id", "file", "reason", "detail"))
        for reject in rejects:
            where = f" (in {', '.join(reject.volumes)})" if reject.volumes else ""
            table.writerow(("", f"{reject.archive}/{reject.member}", reject.reason, reject.detail + where))
    for reason, number in Counter(reject.reason for reject in rejects).most_common():
        LOG.info("%7d left out: %s: %s", number, reason, remedy(reason))
    for volume, number in Counter(volume for reject in rejects for volume in reject.volumes).most_common():
        LOG.info("damaged: %s (%d members)", volume, number)
    if any(reject.reason == "needs_7zip" for reject in rejects):
        LOG.info("some members are compressed in a way that needs 7-Zip; %s", INSTALL_SEVEN_ZIP)
    if rejects:
        LOG.info("%s lists which and why", path)
    return cli.PARTLY if rejects else cli.OK


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send log lines to the file, and those above DEBUG to the terminal. Raises Stopped for an interrupt."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log_to_file(path, level=logging.DEBUG)
    except OSError as error:
        raise UserError(f"--log {path}: cannot be written: {error.strerror}") from None
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(_BY_A_SIGNAL) from None


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = cli.parser(__doc__)
    parser.prog = "extract_all.sh"
    parser.add_argument("--archives", type=Path, default=Path("archives"), help="the archives (default: archives)")
    parser.add_argument("--out-dir", type=Path, default=Path("data/medical_data_2"), help="(default: data/medical_data_2)")
    parser.add_argument("--jobs", type=cli.int_at_least(1), default=os.environ.get("JOBS") or str(parallel.default_workers()),
                        help="processes that extract members (default: $JOBS, else one a processor: %(default)s)")
    parser.add_argument("--threads", type=cli.int_at_least(1), default=os.environ.get("THREADS") or None,
                        help="volumes copied out of the outer zips at a time (default: $THREADS, else --jobs)")
    parser.add_argument("--max-expansion", type=float, default=20, metavar="FACTOR",
                        help="largest ratio of content to size on disk of an archive (default: %(default)s)")
    parser.add_argument("--log", type=Path, default=Path("logs/extract_all.log"), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    with _log_to(args.log):
        rejects = extract_all(args.archives, args.out_dir, jobs=args.jobs, threads=args.threads or args.jobs,
                              max_expansion=args.max_expansion)
        return report(rejects, args.log.with_name(f"{args.log.stem}_rejects.csv"))


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
