"""Train a network that reads one ear: a 2D encoder for each slice, then one vector an ear.

    python scripts/train_ear2d.py --splits-root artifacts/splits_dual_patient --pct 20 --label-task normal_vs_abnormal \\
        --backbone resnet18

Takes the cache that the preprocessing flags name; given none of them, the only one in --cache-dir. Writes outputs/<run>/ with
config.json, metrics.jsonl, train.log, checkpoints/, tensorboard/ and reports/curves.png. After a stop, --resume outputs/<run>
goes on after its last whole epoch, with its own settings.
"""
from dataclasses import replace
from pathlib import Path

from medical_fenlei import cli, settings
from medical_fenlei.training.config import EarSpec, RunConfig


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--output-dir", type=Path, help="the run's folder (default: a new one under outputs/)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run (no other flag is needed)")
    settings.add_flags(parser, RunConfig)
    args = parser.parse_args(argv)
    config = settings.from_flags(RunConfig, args)

    from medical_fenlei.data.dataset import EarDataset
    from medical_fenlei.data.sources import find_ears
    from medical_fenlei.ears.store import EarStore, choose_store
    from medical_fenlei.errors import Stopped, UserError
    from medical_fenlei.report.plots import plot_training
    from medical_fenlei.runs import LOG, Run, versions
    from medical_fenlei.tasks import find_task
    from medical_fenlei.training.loop import Trainer

    if args.resume:
        run = Run(args.resume)
        if args.output_dir or settings.given(args, RunConfig):
            raise UserError("--resume: a run goes on with its own settings; leave the other flags away")
        config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
        store = EarStore(config.data.cache_dir, config.ears)
    else:
        named = config.ears if settings.given(args, EarSpec) else None
        store = choose_store(config.data.cache_dir, named)
        config = replace(config, ears=store.spec)
    task = find_task(config.data.label_task)
    sources = find_ears(config.data, store, task, ("train", "tune"))
    ears = {name: EarDataset(store, frame) for name, frame in sources.ears.items() if len(frame)}
    if "train" not in ears or len({*task.targets(ears["train"].code).ravel()}) < 2:
        raise UserError(f"--label-task {task.name}: the training set of {config.data.splits_root} --pct {config.data.pct} "
                        "holds ears of fewer than two classes")
    if not args.resume:
        run = Run.new(args.output_dir, f"ear2d_{task.name}_{config.model.backbone}")
        run.write_config(settings.to_json(config), {"data": sources.hashes, "versions": versions()})
    run.open_log()
    try:
        trainer = Trainer(config, run, ears["train"], ears.get("tune"))
    except UserError:
        if not args.resume:
            run.discard()
        raise
    if args.resume:
        trainer.go_on()
    try:
        done = trainer.fit()
    except KeyboardInterrupt:
        raise Stopped(f"saved after epoch {trainer.progress.epoch}; --resume {run.folder} goes on") from None
    plot_training(run.reports / "curves.png", list(run.read_metrics()), best_epoch=done.best_epoch)
    measured = f"{config.training.early_stop_metric} {done.best_value:.3f} on the tune set" if "tune" in ears else "no tune set"
    LOG.info("best epoch %d (%s): %s", done.best_epoch, measured, run.checkpoint("best"))
    return cli.report_rejects(sources.rejects, run.reports / "train.csv")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
