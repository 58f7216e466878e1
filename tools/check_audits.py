"""Do the audits find what is wrong? Faults planted in a synthetic hospital, each alone, and none at all.

    python tools/check_audits.py --hospital data/demo --run outputs/demo_seed0     # some 15 minutes on two cores

None: no verdict is "wrong". A kernel that gives the label away; a patient of the validation set again in the training set,
under another id: planted in the tables and the cache, and audited with the demo's network. Sides exchanged in half of the
exams; 10 % of the labels wrong: planted before training too, with the demo's settings. Leaves with status 1 if one is not
found. Synthetic, not clinical evidence.
"""
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei import cli, settings, tables
from medical_fenlei.audits import checks as audits
from medical_fenlei.audits.run_audits import audit_run
from medical_fenlei.config import EAR2D, DataConfig, RunConfig
from medical_fenlei.files import write_json
from medical_fenlei.runs import Run
from medical_fenlei.trained.network import Trained, open_trained
from medical_fenlei.training.run import start_run

FOLDER = Path("artifacts/planted")
SEED = 5
SHARE_WRONG, TOP, FOUND = 0.1, 0.15, 0.6
OPPOSITE = {"left": "right", "right": "left"}


def relabelled(manifest: pd.DataFrame, code: pd.Series) -> pd.DataFrame:
    return tables.MANIFEST.frame(manifest.assign(label_code=code.astype("int8"), **tables.task_columns(code.astype("int8"))))


def exchanged(manifest: pd.DataFrame) -> pd.DataFrame:
    """Left for right in half of the exams."""
    exams = np.random.default_rng(SEED).permutation(manifest.exam_id.unique())
    mine = manifest.exam_id.isin(exams[: len(exams) // 2])
    other = manifest.set_index(["exam_id", "side"]).label_code
    there = [other.get((exam, OPPOSITE[side]), 0) for exam, side in zip(manifest.exam_id, manifest.side, strict=True)]
    return relabelled(manifest, manifest.label_code.where(~mine, pd.Series(there, manifest.index)))


def some_wrong(manifest: pd.DataFrame) -> tuple[pd.DataFrame, set[tuple[str, str]]]:
    """Some labels of normal ears say CSOM, of abnormal ones normal; and which."""
    rng, labelled = np.random.default_rng(SEED), np.flatnonzero(manifest.label_code > 0)
    chosen = rng.choice(labelled, round(SHARE_WRONG * len(labelled)), replace=False)
    code = manifest.label_code.to_numpy().copy()
    code[chosen] = np.where(code[chosen] == 5, 1, 5)
    ears = set(zip(manifest.exam_id.iloc[chosen], manifest.side.iloc[chosen], strict=True))
    return relabelled(manifest, pd.Series(code, manifest.index)), ears


def by_kernel(manifest: pd.DataFrame) -> pd.DataFrame:
    """The kernel of nine ears in ten follows their diagnosis, as where each ear has a reconstruction of its own."""
    told = np.random.default_rng(SEED).random(len(manifest)) < 0.9
    abnormal = manifest.label_code.isin([1, 2, 3, 4, 6])
    return manifest.assign(kernel=np.where(told == abnormal, "SHARP", "SHARPER"))


def twice(hospital_data: DataConfig, key: str, manifest: pd.DataFrame) -> DataConfig:
    """A validation exam once more, as another patient in the training set."""
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


def trained_on(config: RunConfig, manifest: pd.DataFrame, name: str) -> tuple[Trained, DataConfig]:
    csv, folder = FOLDER / f"{name}.csv", Path("outputs") / f"planted_{name}"
    tables.MANIFEST.write(csv, manifest)
    data = replace(config.data, manifest_csv=csv)
    if not (folder / "checkpoints/best.pt").is_file():
        start_run(replace(config, data=data), folder)
    return open_trained(folder / "checkpoints/best.pt", kind=EAR2D, device="auto"), data


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--hospital", type=Path, default=Path("data/demo"), help="a folder in which tools/demo.sh has run")
    parser.add_argument("--run", type=Path, default=Path("outputs/demo_seed0"), help="the demo's run, below --hospital")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    json_to = args.json.resolve() if args.json else None
    os.chdir(args.hospital)
    run = Run(args.run)
    config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    manifest, results = tables.MANIFEST.read(config.data.manifest_csv), []

    def check(what: str, found: list[audits.Audit], of: str, good: bool) -> None:
        shown = [audit for audit in found if (audit.question.startswith(of) if of else audit.verdict == "wrong")]
        for audit in shown:
            cli.say(f"     {audit.verdict}: {audit.question} {audit.estimate:.3f} ({audit.low:.3f} to {audit.high:.3f}); "
                    + audit.words)
        cli.say(f"{'ok ' if good else 'BAD'} {what}")
        results.append({"planted": what, "found": good, "audits": [vars(audit) for audit in shown]})

    def verdict(found: list[audits.Audit], of: str) -> str:
        return next(audit.verdict for audit in found if audit.question.startswith(of))

    plain = open_trained(run.checkpoint("best"), kind=EAR2D, device="auto")
    clean = audit_run(plain, config.data, "val", draws=1000).audits
    check("nothing planted: nothing is called wrong", clean, "", all(audit.verdict != "wrong" for audit in clean))

    key, scanner, sides, leak = config.ears.key, "Does the scanner", "Are left and right", "Does the test leak"
    tables.MANIFEST.write(FOLDER / "kernel.csv", by_kernel(manifest))
    found = audit_run(plain, replace(config.data, manifest_csv=FOLDER / "kernel.csv"), "val", draws=1000).audits
    check("a kernel that gives the label away", found, scanner, verdict(found, scanner) == "wrong")
    answer = audits.leakage(twice(config.data, key, manifest), key)
    check("a patient of the validation set again in the training set", [answer], leak, answer.verdict == "wrong")

    tables.MANIFEST.write(FOLDER / "exchanged_half.csv", exchanged(manifest))
    found = audit_run(plain, replace(config.data, manifest_csv=FOLDER / "exchanged_half.csv"), "val", draws=1000).audits
    check("sides exchanged in half of the exams, after training", found, sides, verdict(found, sides) == "wrong")
    trained, data = trained_on(config, exchanged(manifest), "exchanged_half")
    found = audit_run(trained, data, "val", draws=1000).audits
    check("the same before training: a weak network, which at least does not pass", found, sides, verdict(found, sides) != "ok")

    wrong, ears = some_wrong(manifest)
    trained, data = trained_on(config, wrong, "wrong_labels")
    audit_run(trained, data, "val", draws=1000)
    listed = tables.SUSPECTS.read(trained.run.reports / "labels_to_read_again.csv")
    planted = np.array([ear in ears for ear in zip(listed.exam_id, listed.side, strict=True)])
    at_top = (listed["rank"] <= TOP * len(listed)).to_numpy()
    share = float((planted & at_top).sum() / planted.sum())
    for name, own in listed.groupby("set"):
        mine = planted[own.index]
        cli.say(f"     {name}: {mine.sum()} of {len(own)} labels are wrong; {(mine & at_top[own.index]).sum()} of them in the "
                f"list's top {TOP:.0%}")
    check(f"{SHARE_WRONG:.0%} wrong labels: {share:.0%} of them in the top {TOP:.0%} of the list", [], "none", share >= FOUND)
    if json_to:
        write_json(json_to, results)
    return cli.OK if all(result["found"] for result in results) else cli.CHECK_FAILED


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
