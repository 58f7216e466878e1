"""Train and evaluate the same ear network with several seeds: how much of a result is chance?

    python scripts/run_seeds_ear2d.py --splits-root artifacts/splits_dual_patient --pct 20 \\
        --label-task normal_vs_abnormal --seeds 0,1,2

Takes the flags of train_ear2d. Each network is calibrated on its tune set, where that is possible, before it is evaluated.
Writes outputs/ear2d_seeds/<task>_<pct>pct_<backbone>/ (several tasks: <task>+<task>_…) with one run per seed, state.json,
runs.csv, summary.csv, summary.md and index.html, the page: mean ± standard deviation over seeds, the interval of the mean with
patients resampled, and the same for the ensemble (the networks' mean probability). --jobs N runs N seeds at once. After a stop
the same command continues and skips finished seeds.
"""
from medical_fenlei import cli, settings
from medical_fenlei.commands.study import add_study_flags, run_study, study_name, study_settings
from medical_fenlei.config import EAR_ROUTE


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    add_study_flags(parser, EAR_ROUTE, default_dir="outputs/ear2d_seeds", seeds="0,1,2", leave_out=("seed",))
    args = parser.parse_args(argv)
    config = study_settings(args, EAR_ROUTE)
    folder = args.output_dir / f"{study_name(config)}_{config.data.pct}pct_{config.model.backbone}"
    runs = {f"seed_{seed}": settings.changed(config, seed=seed) for seed in args.seeds}
    return run_study(folder, runs, args, EAR_ROUTE)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
