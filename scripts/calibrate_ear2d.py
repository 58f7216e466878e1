"""Calibrate the probabilities of a trained ear network and choose its thresholds, on the tune set only.

    python scripts/calibrate_ear2d.py --checkpoint outputs/<run>/checkpoints/best.pt --point youden --sensitivity 0.95

Fits a temperature and, for each binary task, operating points: 0.5 (half), the greatest sensitivity + specificity (youden),
95 % specificity (specificity_95), a required sensitivity (sensitivity_<percent>). Writes
outputs/<run>/checkpoints/best.calibration.json, which eval_ear2d and predict_ear2d apply, deciding at --point. With fewer than
20 patients of a class in the tune set, 0.5 decides instead, and a warning says so. It cannot be fitted on validation or test
sets, and refuses a split whose tune set shares patients with them.
"""
from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.config import EAR2D
from medical_fenlei.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_checkpoint_flags(parser, leave_out=("limit",))
    parser.add_argument("--point", default="youden", help="operating point that decides (default: %(default)s)")
    parser.add_argument("--sensitivity", type=float, default=0.95,
                        help="sensitivity that one of the operating points shall have (default: %(default)s)")
    args = parser.parse_args(argv)

    if not 0 < args.sensitivity <= 1:
        raise UserError(f"--sensitivity: got {args.sensitivity:g}, expected above 0, at most 1")
    network, data = open_checkpoint(args, kind=EAR2D, sets=("tune",))

    from medical_fenlei.evaluation.calibrate import fit_calibration

    found = fit_calibration(network, data, sensitivity=args.sensitivity, point=args.point)
    for name, fitted in found.tasks.items():
        cli.say(f"{name}: fitted on {fitted.ears} ears of {fitted.patients} patients of the tune set; temperature "
                f"{fitted.temperature:.3f}, mean loss {fitted.loss_before:.4f} before, {fitted.loss_after:.4f} after")
        if fitted.note:
            cli.warn(f"{name}: temperature {fitted.note}")
        if fitted.point_note:
            cli.warn(f"{name}: {fitted.point_note}")
        for point, threshold in fitted.points.items():
            cli.say(f"  {point:15s} {threshold:.4f}" + ("   decides" if point == fitted.point else ""))
    for reason in found.unfitted.values():
        cli.warn(f"{reason}; its probabilities are not calibrated")
    cli.say(f"wrote {found.write(args.checkpoint)}; eval_ear2d applies it")
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
