"""The training benchmark runs, and its figures have their documented names."""
import json
import math
import subprocess
import sys

from helpers.commands import ROOT

STORAGES, PEERS = ("device", "memory", "disk"), ("monai", "plain")
SMALL = ("--quick", "--device", "cpu", "--nets", "test_resnet", "--slices", 2, "--image-size", 32, "--batch-size", 2,
         "--ears", 4, "--repeats", 1)


def test_every_fixed_name_has_a_figure(tmp_path):
    words = [sys.executable, ROOT / "tools" / "bench_train.py", *SMALL, "--json", tmp_path / "figures.json"]
    said = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(set(figure) == {"name", "value", "unit", "better", "n", "spread"} for figure in figures)
    ceiling = ["loop_vs_ceiling", *(f"loop_vs_ceiling.test_resnet.{storage}" for storage in STORAGES)]
    speedups = [f"speedup_vs_{peer}{which}" for peer in PEERS for which in ("", "_same_precision")]
    names = [*ceiling, *(f"ears_per_s.{storage}" for storage in STORAGES), *speedups]
    assert sorted(figure["name"] for figure in figures) == sorted(names)
    assert all(0 < figure["value"] < math.inf and figure["better"] == "higher" for figure in figures)
    assert "largest_batch" in said.stdout.splitlines()[-1]                       # names what it could not measure
