"""The whole matrix of the dual route: amounts of training data first, then networks, then seeds.

    python scripts/run_experiments_dual.py --label-task normal_vs_cholesteatoma --dry-run

Takes every flag of train_dual but those that the matrix sets. At most 200, 80 and 40 epochs with 1, 20 and 100 % of the data
(--epochs: the same for all), fewer by early stopping. Writes outputs/experiments_dual/<task>/ with a folder a run, state.json,
runs.csv, summary.csv and summary.md. It can be killed: the same command goes on, runs that are done are passed over, and one
that fails does not end the others. --dry-run prints the command line of each run; --summarize only writes the tables anew.
"""
from medical_fenlei import cli, settings
from medical_fenlei.commands.study import add_study_flags, run_study, study_name, study_settings
from medical_fenlei.config import DUAL_ROUTE, SLICE_ATTENTION, ModelConfig, RunConfig

MODELS = tuple(name for name in settings.choices(ModelConfig, "model") if name != SLICE_ATTENTION[0])
EPOCHS = ((1, 200), (20, 80), (100, 40))
"""At most so many epochs up to this percentage of the data."""


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--pcts", type=cli.numbers, default="1,20,100", help="amounts of data, percent (default: 1,20,100)")
    parser.add_argument("--models", type=cli.words(MODELS), default=",".join(MODELS), help="default: all")
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
