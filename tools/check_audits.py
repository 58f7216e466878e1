"""Check that the audits find faults planted in a synthetic hospital, one at a time, and report none without a fault.

    python tools/check_audits.py --hospital data/demo --run outputs/demo_seed0     # some 15 minutes on two cores

Without a fault no verdict may be "wrong". Two faults are planted in the tables and the cache and audited with the demo's
network: a kernel that predicts the label, and a patient of the validation set who is in the training set under another id. Two
are also planted before training with the demo's settings: sides exchanged in half of the exams, and 10 % wrong labels. Exits
with status 1 if a fault is not found. Synthetic, not clinical evidence.
"""
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei import cli, settings, tables
from medical_fenlei.audits.audit import Audit
from medical_fenlei.audits.run_audits import audit_run
from medical_fenlei.audits.split_leakage import audit_leakage
from medical_fenlei.config import EAR2D, DataConfig, RunConfig
from medical_fenlei.files import write_json
from medical_fenlei.runs import Run
from medical_fenlei.trained.network import TrainedNetwork, open_network
from medical_fenlei.training.run import start_run

FOLDER = Path("artifacts/planted")
SEED = 5
SHARE_WRONG = 0.1
"""Share of the labels that are changed."""
TOP, FOUND = 0.15, 0.6
"""Share of the list of doubtful labels in which the wrong ones are expected, and the share of them that has to be there."""
OPPOSITE = {"left": "right", "right": "left"}


def relabelled(manifest: pd.DataFrame, code: pd.Series) -> pd.DataFrame:
    """Return the manifest with these codes and their task columns."""
    return tables.MANIFEST.frame(manifest.assign(label_code=code.astype("int8"), **tables.task_columns(code.astype("int8"))))


def exchanged(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest with the labels of both sides exchanged in half of the exams."""
    exams = np.random.default_rng(SEED).permutation(manifest.exam_id.unique())
    mine = manifest.exam_id.isin(exams[: len(exams) // 2])
    other = manifest.set_index(["exam_id", "side"]).label_code
    opposite = [other.get((exam, OPPOSITE[side]), 0) for exam, side in zip(manifest.exam_id, manifest.side, strict=True)]
    return relabelled(manifest, manifest.label_code.where(~mine, pd.Series(opposite, manifest.index)))


def some_wrong(manifest: pd.DataFrame) -> tuple[pd.DataFrame, set[tuple[str, str]]]:
    """Return the manifest with SHARE_WRONG of the labels changed (normal to CSOM, abnormal to normal), and these ears."""
    rng, labelled = np.random.default_rng(SEED), np.flatnonzero(manifest.label_code > 0)
    chosen = rng.choice(labelled, round(SHARE_WRONG * len(labelled)), replace=False)
    code = manifest.label_code.to_numpy().copy()
    code[chosen] = np.where(code[chosen] == 5, 1, 5)
    ears = set(zip(manifest.exam_id.iloc[chosen], manifest.side.iloc[chosen], strict=True))
    return relabelled(manifest, pd.Series(code, manifest.index)), ears


def by_kernel(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest with a kernel that follows the diagnosis in 90 % of the ears."""
    follows = np.random.default_rng(SEED).random(len(manifest)) < 0.9
    abnormal = manifest.label_code.isin([1, 2, 3, 4, 6])
    return manifest.assign(kernel=np.where(follows == abnormal, "SHARP", "SHARPER"))


def twice(hospital_data: DataConfig, key: str, manifest: pd.DataFrame) -> DataConfig:
    """Copy a validation exam into the training set as another patient; return the data settings."""
    split, cache = tables.read_split(hospital_data.splits_root, hospital_data.pct), FOLDER / "cache" / key
    source = split.sets["val"][:1]
    exam = str(source.exam_id.iloc[0])
    shutil.copytree(hospital_data.cache_dir / key, cache, dirs_exist_ok=True)
    index = tables.CACHE_INDEX.read(cache / "index.csv")
    own = index[index.exam_id == exam]
    tables.CACHE_INDEX.write(cache / "index.csv", pd.concat([index, own.assign(exam_id="TWIN")]))
    more = manifest[manifest.exam_id == exam].assign(exam_id="TWIN", patient_key="twin", study_key="")
    tables.MANIFEST.write(FOLDER / "twice.csv", tables.MANIFEST.frame(pd.concat([manifest, more])))
    root = FOLDER / "splits_twice"
    for name, frame in split.sets.items():
        twin = source.assign(exam_id="TWIN", patient_key="twin") if name == "train" else source[:0]
        tables.SPLIT.write(root / f"{hospital_data.pct}pct/{name}.csv", tables.SPLIT.frame(pd.concat([frame, twin])))
    return replace(hospital_data, splits_root=root, manifest_csv=FOLDER / "twice.csv", cache_dir=FOLDER / "cache")


def trained_on(config: RunConfig, manifest: pd.DataFrame, name: str) -> tuple[TrainedNetwork, DataConfig]:
    """Train a network on this manifest, unless that is done; return it with its data settings."""
    csv, folder = FOLDER / f"{name}.csv", Path("outputs") / f"planted_{name}"
    tables.MANIFEST.write(csv, manifest)
    data = replace(config.data, manifest_csv=csv)
    if not (folder / "checkpoints/best.pt").is_file():
        start_run(replace(config, data=data), folder)
    return open_network(folder / "checkpoints/best.pt", kind=EAR2D, device="auto"), data


class Checks:
    """The planted faults, and whether the audits found them."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []

    def add(self, planted: str, found: bool, audits: list[Audit]) -> None:
        """Print and keep one result with the audits that it rests on."""
        for audit in audits:
            cli.say(f"     {audit.verdict}: {audit.question} {audit.estimate:.3f} ({audit.low:.3f} to {audit.high:.3f}); "
                    + audit.explanation)
        cli.say(f"{'ok ' if found else 'BAD'} {planted}")
        self.results.append({"planted": planted, "found": found, "audits": [audit.to_row() for audit in audits]})


def question(audits: list[Audit], begins: str) -> Audit:
    """Return the answer to the question that begins with these words."""
    return next(audit for audit in audits if audit.question.startswith(begins))


def check_planted_in_tables(checks: Checks, config: RunConfig, network: TrainedNetwork) -> None:
    """Audit the demo's network without a fault, and with faults in the manifest, the splits and the cache."""
    manifest = tables.MANIFEST.read(config.data.manifest_csv)

    def audits_with(changed: pd.DataFrame, name: str) -> list[Audit]:
        tables.MANIFEST.write(FOLDER / name, changed)
        return audit_run(network, replace(config.data, manifest_csv=FOLDER / name), "val", n_resamples=1000).audits

    wrong = [audit for audit in audit_run(network, config.data, "val", n_resamples=1000).audits if audit.verdict == "wrong"]
    checks.add('no fault: no verdict is "wrong"', not wrong, wrong)
    scanner = question(audits_with(by_kernel(manifest), "kernel.csv"), "Does the scanner")
    checks.add("a kernel that predicts the label", scanner.verdict == "wrong", [scanner])
    leakage = audit_leakage(twice(config.data, config.ears.key, manifest), config.ears.key)
    checks.add("a patient of the validation set in the training set", leakage.verdict == "wrong", [leakage])
    sides = question(audits_with(exchanged(manifest), "exchanged_half.csv"), "Are left and right")
    checks.add("sides exchanged in half of the exams, after training", sides.verdict == "wrong", [sides])


def check_planted_before_training(checks: Checks, config: RunConfig) -> None:
    """Audit networks that were trained on exchanged sides and on wrong labels."""
    manifest = tables.MANIFEST.read(config.data.manifest_csv)
    network, data = trained_on(config, exchanged(manifest), "exchanged_half")
    sides = question(audit_run(network, data, "val", n_resamples=1000).audits, "Are left and right")
    checks.add("the same before training: the weak network does not pass", sides.verdict != "ok", [sides])

    changed, ears = some_wrong(manifest)
    network, data = trained_on(config, changed, "wrong_labels")
    audit_run(network, data, "val", n_resamples=1000)
    listed = tables.SUSPECTS.read(network.run.reports / "labels_to_read_again.csv")
    planted = np.array([ear in ears for ear in zip(listed.exam_id, listed.side, strict=True)])
    at_top = (listed["rank"] <= TOP * len(listed)).to_numpy()
    for name, own in listed.groupby("set"):
        wrong = planted[own.index]
        cli.say(f"     {name}: {wrong.sum()} of {len(own)} labels are wrong; {(wrong & at_top[own.index]).sum()} of them in "
                f"the list's top {TOP:.0%}")
    share = float((planted & at_top).sum() / planted.sum())
    checks.add(f"{SHARE_WRONG:.0%} wrong labels: {share:.0%} of them in the top {TOP:.0%} of the list", share >= FOUND, [])


def main() -> int:
    """Run the checks; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--hospital", type=Path, default=Path("data/demo"), help="a folder in which tools/demo.sh has run")
    parser.add_argument("--run", type=Path, default=Path("outputs/demo_seed0"), help="the demo's run, below --hospital")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    json_to = args.json.resolve() if args.json else None
    os.chdir(args.hospital)
    run, checks = Run(args.run), Checks()
    config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    check_planted_in_tables(checks, config, open_network(run.checkpoint("best"), kind=EAR2D, device="auto"))
    check_planted_before_training(checks, config)
    if json_to:
        write_json(json_to, checks.results)
    return cli.OK if all(result["found"] for result in checks.results) else cli.CHECK_FAILED


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
