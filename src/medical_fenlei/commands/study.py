"""run_seeds_ear2d and run_experiments_dual: the flags of a study, and running it."""
import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from medical_fenlei import cli, settings
from medical_fenlei.commands.train import add_run_flags, check_run, with_cache
from medical_fenlei.config import EarSpec, RunConfig, decisive_settings


def add_study_flags(
    parser: argparse.ArgumentParser, route: RunConfig, *, default_dir: str, seeds: str, leave_out: tuple[str, ...]
) -> None:
    """Add the flags of every study: seeds, output folder, dry run, summary only, and the settings of its runs."""
    parser.add_argument("--seeds", type=cli.comma_separated_ints, default=seeds, help=f"seeds of the runs (default: {seeds})")
    parser.add_argument("--output-dir", type=Path, default=Path(default_dir),
                        help=f"folder of all studies (default: {default_dir})")
    parser.add_argument("--jobs", type=cli.int_at_least(1), default=1, metavar="N",
                        help="runs in parallel, each with its share of the processors (default: 1)")
    parser.add_argument("--dry-run", action="store_true",
                        help="only print every setting that decides, and the command line of each run")
    parser.add_argument("--summarize", action="store_true", help="only write the tables of what is done")
    add_run_flags(parser, route, leave_out=leave_out)


def study_settings(args: argparse.Namespace, route: RunConfig) -> RunConfig:
    """The settings that all runs share, with the preprocessing of the cache to use and the tasks under their English names."""
    from medical_fenlei.tasks import find_tasks

    config = with_cache(settings.from_flags(RunConfig, args, base=route), named=settings.given(args, EarSpec))
    cli.keep_input_apart(args, dicom_base=config.data.dicom_base)
    return settings.changed(config, label_task=",".join(task.name for task in find_tasks(config.data.label_task)))


def study_name(config: RunConfig) -> str:
    """The tasks in the name of a study's folder: `one` or `one+two`."""
    return config.data.label_task.replace(",", "+")


def describe_settings(configs: Sequence[RunConfig]) -> list[str]:
    """Return a line for each part of the settings that decide the result, those that all runs share and which differ."""
    each, lines = [decisive_settings(config) for config in configs], []
    for part, own in each[0].items():
        shared = [name for name, value in own.items() if all(other[part][name] == value for other in each)]
        values = [f"{name.replace('_', '-')} {_shown(own[name])}" for name in shared]
        values += [f"{name.replace('_', '-')} as below" for name in own if name not in shared]
        lines.append(f"{part}: {', '.join(values)}")
    caches = {str(config.data.cache_dir / config.ears.key): None for config in configs}
    return [*lines, f"cache: {', '.join(caches)}"]


def _shown(value: object) -> str:
    return "none" if value is None else ";".join(map(str, value)) if isinstance(value, list) else str(value)


def run_study(folder: Path, runs: Mapping[str, RunConfig], args: argparse.Namespace, route: RunConfig) -> int:
    """Run these settings, each in a folder of its name below the study's, write the tables, and return the exit status.

    --dry-run only prints the runs, after every setting that decides their results; --summarize only writes the tables.
    """
    if not (args.dry_run or args.summarize):
        for config in {config.data: config for config in runs.values()}.values():
            check_run(config)

    from medical_fenlei.experiments.study import Job, Study
    from medical_fenlei.experiments.summary import summarize

    study = Study(folder, [Job(folder / name, config) for name, config in runs.items()])
    if args.dry_run:
        for line in describe_settings(list(runs.values())):
            cli.say(f"# {line}")
        for job in study.jobs:
            cli.say(shlex.join(job.command(route)))
        return cli.OK
    if not args.summarize:
        study.run(parallel=args.jobs)
    files = summarize(study)
    cli.say(files[-1].read_text(encoding="utf-8"))
    cli.say("wrote " + ", ".join(map(str, files)))
    unfinished = len(study.jobs) - len(study.done())
    if unfinished:
        cli.warn(f"{unfinished} of {len(study.jobs)} runs are not done; {study.state_json} says why")
    return cli.PARTLY if unfinished else cli.OK
