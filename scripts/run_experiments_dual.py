"""Run the experiment matrix of the dual route: amounts of training data first, then networks, then seeds.

    python scripts/run_experiments_dual.py --label-task normal_vs_cholesteatoma --dry-run

Takes the flags of train_dual, except those that the matrix sets. Trains at most 200, 80 and 40 epochs with 1, 20 and 100 % of
the data (--epochs: the same for all), fewer by early stopping. Writes outputs/experiments_dual/<task>/ with one folder per run,
state.json, runs.csv, summary.csv, summary.md and index.html. After a kill the same command continues and skips finished runs; a
failed run does not stop the others. --dry-run prints every setting that decides and the command line of each run; --summarize
only rewrites the tables.
"""
from medical_fenlei import cli, settings
from medical_fenlei.commands.study import add_study_flags, run_study, study_name, study_settings
from medical_fenlei.config import DUAL_ROUTE, SLICE_ATTENTION, ModelConfig, RunConfig

MODELS = tuple(name for name in settings.choices(ModelConfig, "model") if name != SLICE_ATTENTION[0])
EPOCHS = ((1, 200), (20, 80), (100, 40))
"""Greatest amount of training data in percent, and the most epochs for it."""


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--pcts", type=cli.comma_separated_ints, default="1,20,100",
                        help="amounts of training data in percent (default: %(default)s)")
    parser.add_argument("--models", type=cli.comma_separated(MODELS), default=",".join(MODELS), metavar="NAME,NAME",
                        help="networks (default: %(default)s)")
    add_study_flags(parser, DUAL_ROUTE, default_dir="outputs/experiments_dual", seeds=str(DUAL_ROUTE.training.seed),
                    leave_out=("seed", "pct", "model"))
    args = parser.parse_args(argv)
    config = study_settings(args, DUAL_ROUTE)
    runs: dict[str, RunConfig] = {}
    for pct in args.pcts:
        epochs = getattr(args, "epochs", None) or next((most for up_to, most in EPOCHS if pct <= up_to), EPOCHS[-1][1])
        for model in args.models:
            for seed in args.seeds:
                runs[f"{pct}pct_{model}_seed{seed}"] = settings.changed(config, pct=pct, model=model, epochs=epochs, seed=seed)
    return run_study(args.output_dir / study_name(config), runs, args, DUAL_ROUTE)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
