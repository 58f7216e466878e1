"""How much memory one worker of the cache builder takes on a large exam, raw and JPEG Lossless (JPEG-LS).

    python tools/bench_cache.py                    # 467 slices of 512 x 512, the largest to be planned for
    python tools/bench_cache.py --quick            # 64 slices

Prints a table and, with --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
"""
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from medical_fenlei import cli
from medical_fenlei.files import write_json
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.phantom.hospital import examine
from medical_fenlei.phantom.population import draw_population
from medical_fenlei.phantom.scanner import acquire
from medical_fenlei.phantom.series import SeriesFacts, write_series
from medical_fenlei.phantom.spec import HospitalSpec

SYNTAXES = {"raw": str(ExplicitVRLittleEndian), "jpeg": str(JPEGLSLossless)}

WORKER = r"""
import json, re, sys
from pathlib import Path
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.ears.spec import EarSpec
from medical_fenlei.ears.store import EarStore
spec = EarSpec(num_slices=int(sys.argv[3]))
store = EarStore(Path(sys.argv[2]), spec)
for side, ear in prepare_ears(open_series(Path(sys.argv[1])), spec).items():
    store.write("1", side, ear.volume, ear.facts)
peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps(int(peak[1]) / 1024))
"""
"""Its own process, so that the peak is that of one worker (VmHWM; ru_maxrss would begin at the parent's)."""


def write_exam(folder: Path, syntax: str, slices: int) -> None:
    spec = HospitalSpec(num_exams=4, matrix=512, slices=slices)
    exam = draw_population(spec.num_exams, spec.seed)[0]
    seen, rng = examine(exam, spec)
    scan = replace(seen.scan, transfer_syntax=syntax)
    hu = acquire(draw_head(exam.person, seen.changes, seen.pose, seen.affine, scan.shape).hu, scan, rng)
    facts = SeriesFacts(patient=exam.patient, exam_id=exam.exam_id, date=exam.date, number=2, description="bench")
    write_series(folder, hu, seen.affine, scan, facts, rng)


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="a small exam, under a minute")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    slices, found = 64 if args.quick else 467, []
    for name, syntax in SYNTAXES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_exam(Path(folder) / "series", syntax, slices)
            for wanted in (32, slices):                          # the default, and every slice of the series
                said = subprocess.run([sys.executable, "-c", WORKER, f"{folder}/series", f"{folder}/cache", str(wanted)],
                                      check=True, capture_output=True, text=True)
                value = json.loads(said.stdout)
                cli.say(f"peak_mb.{name}: {value:.0f} MB for {wanted} of {slices} slices of 512 x 512")
        found.append({"name": f"peak_mb.{name}", "value": value, "unit": "MB", "better": "lower", "n": 1, "spread": 0.0})
    if args.json:
        write_json(args.json, found)
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
