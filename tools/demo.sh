#!/usr/bin/env bash
# The main route on a synthetic hospital, from DICOM files to a table with intervals (see --help).
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help)
    cat <<'HELP'
The main route on a synthetic hospital, from DICOM files to a table with intervals.

    bash tools/demo.sh
    MF_EXAMS=40 MF_SEED=1 bash tools/demo.sh

Makes the environment at the first call (PyTorch with its libraries is some 5 GB), then takes some 5 minutes on two CPU cores.
Every figure it prints is synthetic, not clinical evidence. It takes no arguments, but these variables:

    MF_DEMO    folder to work in (default: data/demo); a hospital that is there already is used again
    MF_SEED    seed of the training (default: 0)
    MF_EXAMS   number of exams (default: 160)
    MF_VENV    folder of the environment (default: .venv)
    MF_PYTHON  interpreter to make it with, 3.11 or newer
HELP
    exit ;;
*)
    echo "demo.sh: got $1, expected no arguments (see --help)" >&2
    exit 2 ;;
esac
root=$(cd "$(dirname "$0")/.." && pwd)
source "$root/tools/env.sh"
demo=${MF_DEMO:-$root/data/demo}
seed=${MF_SEED:-0}
exams=${MF_EXAMS:-160}
began=$SECONDS

step() {
    printf '\n[%3d s] $ python scripts/%s\n' $((SECONDS - began)) "$*"
    local script=$1
    shift
    python "$root/scripts/$script" "$@"
}

if [ ! -e "$demo/truth/truth.csv" ]; then
    step make_demo_dataset.py --out-dir "$demo" --num-exams "$exams" --seed 0
fi
cd "$demo"
splits=artifacts/splits_dual_patient
run=outputs/demo_seed$seed
rm -rf "$run"

step build_index.py --out-csv artifacts/dataset_index.csv
step build_manifest_ears.py --index-csv artifacts/dataset_index.csv --out-csv artifacts/manifest_ears.csv
step make_splits_dual.py --index-csv artifacts/dataset_index.csv --out-dir $splits \
    --manifest-csv artifacts/manifest_ears.csv --patient-split --val-ratio 0.4
step check_patient_leakage.py --manifest-csv artifacts/manifest_ears.csv
step build_cache_ears.py --splits-root $splits --pct 100 --num-slices 16 --image-size 96 --crop-mm 64 --sampling roi
step train_ear2d.py --splits-root $splits --pct 100 --label-task normal_vs_abnormal --backbone resnet10t \
    --batch-size 8 --epochs 16 --seed "$seed" --output-dir "$run"
step calibrate_ear2d.py --checkpoint "$run/checkpoints/best.pt"
step eval_ear2d.py --checkpoint "$run/checkpoints/best.pt"

printf '\n[%3d s] done. Synthetic, not clinical evidence.\n' $((SECONDS - began))
echo "the page of this run (open it in a browser):  $PWD/$run/reports/report.html"
exam=$(sed -n 2p "$run/reports/predictions_val.csv" | cut -d, -f1,2)
cat <<NEXT

Try next, in this shell:
    cd $PWD && source $root/tools/env.sh
    python $root/scripts/audit_run.py --checkpoint $run/checkpoints/best.pt
    python $root/scripts/gradcam_ear2d.py --checkpoint $run/checkpoints/best.pt --exam-id ${exam%,*} --side ${exam#*,}
    python $root/scripts/retrieve_neighbors_ear2d.py --checkpoint $run/checkpoints/best.pt --exam-id ${exam%,*} --side ${exam#*,}
    python $root/scripts/predict_ear2d.py --dicom data/medical_data_2 --limit 2 --checkpoint $run/checkpoints/best.pt --out-dir artifacts/new_exams
    python $root/scripts/extract_embeddings_ear2d.py --checkpoint $run/checkpoints/best.pt --split train --pct 100 --out-npz artifacts/emb_train.npz
    python $root/scripts/extract_embeddings_ear2d.py --checkpoint $run/checkpoints/best.pt --split val --pct 100 --out-npz artifacts/emb_val.npz
    python $root/scripts/fewshot_code4.py --train-npz artifacts/emb_train.npz --val-npz artifacts/emb_val.npz --label-task normal_vs_cholesterol_granuloma
How much of the figure is luck:  run_seeds_ear2d.py; both ears at once: build_cache_dual.py, train_dual.py (see README.md)
NEXT
