"""Audit a trained network of either route, ear by ear: does it recognise the disease, and not something else?

    python scripts/audit_run.py --checkpoint outputs/<run>/checkpoints/best.pt

Tests for exchanged sides, for shortcuts without the image (scanner, kernel, spacing and date; age and sex), influence of the
other ear, chance (shuffled labels), leakage, and robustness (window, contrast, noise, blur, slice thickness, shift); lists
doubtful labels, from the outputs for each training ear over the epochs. Each figure has an interval and a verdict: ok, look,
wrong, or undecided, with the number of patients that would decide. --retrain also trains on shuffled labels, which takes as
long as the run: the network must learn nothing.

Writes to outputs/<run>/reports/: audits.json and .csv, audits.png (the AUROC under each change), one_sided_exams.csv,
labels_to_read_again.csv (for --cohort NAME: audits_<NAME>.json, …); updates the run's page. Exits with status 1 if a verdict
is "wrong"; undecided audits are counted, and do not change the status.
"""
from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, add_set_flags, open_checkpoint
from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import SETS


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("limit",))
    add_set_flags(parser, choices=SETS[2:], does="audit")
    parser.add_argument("--retrain", action="store_true", help="also train on shuffled labels, which takes as long as the run")
    cli.add_shared_flags(parser, "resamples")
    args = parser.parse_args(argv)
    set_name = args.cohort or args.split
    if args.cohort and args.retrain:
        raise UserError("--retrain: trains on the run's own split; leave --cohort away")

    network, data = open_checkpoint(args, kind=None, job="audit", sets=(set_name,))

    from medical_fenlei.audits.run_audits import audit_run
    from medical_fenlei.audits.verdicts import count_verdicts
    from medical_fenlei.run_report.page import write_page

    done = audit_run(network, data, set_name, batch_size=args.batch_size, n_resamples=args.resamples, retrain=args.retrain)
    for audit in done.audits:
        cli.say(f"{audit.verdict:9s} {audit.question} {audit.summary}")
    counts = count_verdicts([audit.verdict for audit in done.audits])
    cli.say(f"{len(done.audits)} audits: " + ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number))
    if counts["undecided"]:
        cli.warn(f"{counts['undecided']} of {len(done.audits)} audits are undecided: neither passed nor failed, since this set "
                 "has too few patients; each line says how many would decide")
    cli.say("wrote " + ", ".join(map(str, done.files)))
    cli.say(f"look at {write_page(network.run)}")
    return cli.CHECK_FAILED if any(audit.verdict == "wrong" for audit in done.audits) else cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
