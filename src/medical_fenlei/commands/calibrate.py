"""calibrate_ear2d and calibrate_dual: fit temperature and operating points on the tune set, and store them."""
from medical_fenlei import cli
from medical_fenlei.commands.checkpoint import add_checkpoint_flags, open_checkpoint
from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import plural


def calibrate_command(doc: str | None, kind: str, argv: list[str] | None) -> int:
    """Parse the flags of calibrate_ear2d or calibrate_dual, calibrate the network, and return the exit status."""
    parser = cli.parser(doc)
    add_checkpoint_flags(parser, leave_out=("limit",))
    parser.add_argument("--point", default="youden", help="operating point that decides (default: %(default)s)")
    parser.add_argument("--sensitivity", type=float, default=0.95,
                        help="sensitivity that one of the operating points shall have (default: %(default)s)")
    args = parser.parse_args(argv)

    if not 0 < args.sensitivity <= 1:
        raise UserError(f"--sensitivity: got {args.sensitivity:g}, expected above 0, at most 1")
    network, data = open_checkpoint(args, kind=kind, job="calibrate", sets=("tune",))

    from medical_fenlei.evaluation.calibrate import fit_calibration

    found = fit_calibration(network, data, sensitivity=args.sensitivity, point=args.point)
    for name, fitted in found.tasks.items():
        cli.say(f"{name}: fitted on {plural(fitted.ears, 'ear')} of {plural(fitted.patients, 'patient')} of the tune set; "
                f"temperature "
                f"{fitted.temperature:.3f}, mean loss {fitted.loss_before:.4f} before, {fitted.loss_after:.4f} after")
        if fitted.note:
            cli.warn(f"{name}: temperature {fitted.note}")
        if fitted.point_note:
            cli.warn(f"{name}: {fitted.point_note}")
        for point, threshold in fitted.points.items():
            cli.say(f"  {point:15s} {threshold:.4f}" + ("   decides" if point == fitted.point else ""))
    for reason in found.unfitted.values():
        cli.warn(f"{reason}; its probabilities are not calibrated")
    cli.say(f"wrote {found.write(args.checkpoint)}; eval_{kind} applies it")
    return cli.OK
