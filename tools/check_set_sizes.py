"""Measure how uncertain is what a small set decides: the network, the epoch, the threshold.

    python tools/check_set_sizes.py                              # 400 studies of each size, some 2 minutes

Draws patients with two ears each, and prints for each number of patients of each class

- fit: the AUROC that a linear classifier of 32 features loses against the best one, and its standard deviation;
- epoch: the true AUROC that the chosen epoch loses against the best one, if it is chosen by AUPRC, by the mean loss of the last
  EPOCHS_AVERAGED epochs, or is the last; once for a network that keeps what it has learnt, once for one that overfits;
- threshold: the balanced accuracy that Youden's threshold loses against the best one, and the standard deviation of its
  sensitivity; that of 0.5, for a network whose logits are 0, 0.5 or 1 too high.

The sizes in `medical_fenlei/set_sizes.py` follow from it. Exits with status 1 if, at the smallest size that is accepted, what
is chosen is worse than the fallback by more than MARGIN, or if the fallback is worse at half of that size.
"""
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm

from medical_fenlei import cli
from medical_fenlei.files import write_json
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.calibration import HALF, YOUDEN, operating_points
from medical_fenlei.set_sizes import EPOCHS_AVERAGED, TO_CHOOSE_EPOCH, TO_CHOOSE_THRESHOLD

SIZES = (1, 2, 3, 5, 10, 20, 40, 80)
"""Patients of each class."""
EPOCHS = 30
SKILL = 2.0
"""Distance of the classes in standard deviations: an AUROC of 0.92."""
MARGIN = 0.005
"""Loss of AUROC or of balanced accuracy within which two ways to choose are equal."""


def patients(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and noise (N,) of the ears of `size` patients of each class; the other ear differs in 30 %."""
    y = np.repeat([0, 1], size).repeat(2).reshape(-1, 2)
    y[rng.random(2 * size) < 0.3, 1] ^= 1
    noise = np.sqrt(0.5) * rng.normal(size=(2 * size, 1)) + np.sqrt(0.5) * rng.normal(size=y.shape)
    return y.ravel(), noise.ravel()


def fit(size: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the AUROC that a linear classifier loses that was fitted on so many patients."""
    from sklearn.linear_model import LogisticRegression

    y, _ = patients(size, rng)
    features = rng.normal(size=(len(y), 32))
    features[:, 0] += (SKILL + 0.5) * (y - 0.5)
    direction = LogisticRegression(C=0.1, max_iter=1000).fit(features, y).coef_[0] if len(set(y)) > 1 else features[0]
    return {"fit": float(norm.cdf((SKILL + 0.5) / np.sqrt(2))
                         - norm.cdf((SKILL + 0.5) * direction[0] / np.linalg.norm(direction) / np.sqrt(2)))}


def epoch(size: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the AUROC that each way to choose the epoch loses on a tune set of so many patients."""
    return {f"epoch by {name}, {kind}": loss for kind in ("kept", "overfits") for name, loss in
            _epoch_losses(size, rng, overfits=kind == "overfits").items()}


def _epoch_losses(size: int, rng: np.random.Generator, *, overfits: bool) -> dict[str, float]:
    at = np.arange(EPOCHS)
    skill = (SKILL + 0.5) * (1 - np.exp(-(at + 1) / 4)) * (1 - overfits * 0.35 * np.clip((at - 9) / 20, 0, 1))
    skill += 0.25 * np.cos(np.pi * at / EPOCHS / 2) * rng.normal(size=EPOCHS)    # steps shrink with the learning rate
    y, noise = patients(size, rng)
    own = np.sqrt(0.8) * noise + np.sqrt(0.2) * rng.normal(size=(EPOCHS, len(y)))
    score = 1.3 * (1 + (0.08 if overfits else 0.03) * at)[:, None] * (skill[:, None] * (y - 0.5) + own)
    loss = np.log1p(np.exp(-np.where(y == 1, score, -score))).mean(1)
    auprc = np.array([BinaryMeasures(y, each)(np.ones((1, len(y))))["auprc"][0] for each in score])
    averaged = np.array([loss[max(0, n - EPOCHS_AVERAGED + 1):n + 1].mean() for n in range(EPOCHS)])
    true = norm.cdf(skill / np.sqrt(2))
    chosen = {"auprc": np.lexsort((loss, -auprc))[0], "mean loss": averaged.argmin(), "last": EPOCHS - 1}
    return {name: float(true.max() - true[n]) for name, n in chosen.items()}


def threshold(size: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the balanced accuracy that thresholds lose, and the sensitivity at Youden's."""
    y, noise = patients(size, rng)
    if y.min() == y.max():
        return {}
    found = operating_points(expit(SKILL * (SKILL * (y - 0.5) + noise)), y, sensitivity=0.95)

    def rates(at: float, shift: float = 0.0) -> tuple[float, float]:
        cut = (float(logit(np.clip(at, 1e-9, 1 - 1e-9))) - shift) / SKILL
        return float(norm.sf(cut - SKILL / 2)), float(norm.cdf(cut + SKILL / 2))

    best = norm.cdf(SKILL / 2)
    return {"threshold by youden": best - np.mean(rates(found[YOUDEN])), "its sensitivity": rates(found[YOUDEN])[0],
            **{f"0.5, logits {shift:g} too high": best - np.mean(rates(found[HALF], shift)) for shift in (0.0, 0.5, 1.0)}}


def measured(studies: int) -> pd.DataFrame:
    """Return mean and standard deviation of each figure, one row per size and figure."""
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        for draw in (fit, epoch, threshold):
            rng = np.random.default_rng([size, len(draw.__name__)])
            drawn = pd.DataFrame([draw(size, rng) for _ in range(studies)])
            rows += [{"figure": name, "patients": size, "mean": drawn[name].mean(), "sd": drawn[name].std()} for name in drawn]
    return pd.DataFrame(rows)


def main() -> int:
    """Run the simulations; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--studies", type=cli.int_at_least(10), default=400, help="studies of each size (default: 400)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    table = measured(args.studies)
    shown = table.assign(value=[f"{mean:.3f} ({sd:.3f})" for mean, sd in zip(table["mean"], table.sd, strict=True)])
    cli.say(shown.pivot(index="figure", columns="patients", values="value").to_string())
    mean = table.set_index(["figure", "patients"])["mean"]
    worse = [
        f"{choice} at {size}: loses {mean[choice, size]:.3f}, {other} {mean[other, size]:.3f}"
        for choice, other, size in (
            ("epoch by auprc, overfits", "epoch by mean loss, overfits", TO_CHOOSE_EPOCH),
            ("epoch by mean loss, overfits", "epoch by auprc, overfits", TO_CHOOSE_EPOCH // 2),
            ("threshold by youden", "0.5, logits 0.5 too high", TO_CHOOSE_THRESHOLD),
            ("0.5, logits 0.5 too high", "threshold by youden", TO_CHOOSE_THRESHOLD // 2))
        if mean[choice, size] > mean[other, size] + MARGIN]
    for text in worse:
        cli.say(f"BAD {text}")
    if args.json:
        write_json(args.json, table.to_dict("records"))
    return cli.CHECK_FAILED if worse else cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
