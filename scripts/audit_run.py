"""Is it the disease that a network sees? Questions that its figures have to stand, each with an interval and a plain verdict.

    python scripts/audit_run.py --checkpoint outputs/<run>/checkpoints/best.pt

Exchanged sides; what scanner, kernel, spacing and date (or age and sex) reach without the image; the other ear; chance
(shuffled labels); leakage; robustness to window, contrast, noise, blur, slice thickness, shift; and labels to be read again,
from what the network answered to each training ear over the epochs. --retrain trains once more on shuffled labels (as long as
the run took): nothing may be learnt from them.

Writes outputs/<run>/reports/audits.json and .csv, audits.png (the AUROC under each change), one_sided_exams.csv,
labels_to_read_again.csv, and the run's page again. Leaves with status 1 if a verdict is "wrong".
"""
from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.tables import SETS


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("limit",))
    parser.add_argument("--split", choices=SETS[2:], default="val", help="which set is audited (default: val)")
    parser.add_argument("--retrain", action="store_true", help="also train on shuffled labels, as long as the run took")
    cli.add(parser, "draws")
    args = parser.parse_args(argv)

    from medical_fenlei.audits.run_audits import audit_run
    from medical_fenlei.run_report.page import write_page

    trained, data = open_checkpoint(args, kind=EAR2D)
    done = audit_run(trained, data, args.split, batch_size=args.batch_size, draws=args.draws, retrain=args.retrain)
    for audit in done.audits:
        cli.say(f"{audit.verdict:9s} {audit.question} {audit.figure} {audit.estimate:.3f}"
                + (f" ({audit.low:.3f} to {audit.high:.3f})" if audit.low == audit.low else "") + f"; {audit.words}")
    cli.say("wrote " + ", ".join(map(str, done.files)))
    cli.say(f"look at {write_page(trained.run)}")
    return cli.CHECK_FAILED if any(audit.verdict == "wrong" for audit in done.audits) else cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
