"""What the process of one run of a study does."""
import contextlib
import importlib
import time
from dataclasses import replace

from medical_fenlei.config import SLICE_ATTENTION
from medical_fenlei.errors import STOPPED, CheckFailed, Rejected, Stopped, UserError
from medical_fenlei.evaluation.calibrate import calibrate_if_possible
from medical_fenlei.evaluation.evaluate import evaluate
from medical_fenlei.evaluation.write import write_evaluation
from medical_fenlei.experiments.study import REPORTED_SET, Job
from medical_fenlei.log import LOG
from medical_fenlei.run_report.curves import plot_training  # noqa: F401  the page of a run imports it late
from medical_fenlei.run_report.page import write_page, write_training_report
from medical_fenlei.runs import Run
from medical_fenlei.trained.network import open_network
from medical_fenlei.training.run import resume_run, start_run

LATE = ("torch._dynamo", "torch.utils.tensorboard", "pandera.pandas", "scipy.optimize", "scipy.stats")
"""Libraries that every run imports in its course; the first optimizer of torch imports its compiler."""
LATE_2D = ("timm",)
"""Libraries that networks of slices import."""
LATE_3D = ("monai.networks.nets.resnet", "monai.networks.nets.unet", "monai.networks.nets.vit")
"""Libraries that networks of volumes import."""


def import_libraries(job: Job) -> None:
    """Import what the run of a job will import, so that processes forked from this one begin with it.

    Nothing here computes with torch or asks for a GPU: a fork has neither the threads nor the GPU of its parent. A library that
    is missing is left to the run, which says what it is needed for.
    """
    for name in (*LATE, *(LATE_2D if job.config.model.model in SLICE_ATTENTION else LATE_3D)):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def train_and_evaluate(job: Job) -> None:
    """Train the run of a job, or resume it, calibrate it where its tune set allows, evaluate it and write its page.

    Raises Rejected with what the user can do.
    """
    run, config = Run(job.folder), job.config
    began = time.monotonic()
    try:
        if run.config_json.is_file():
            resume_run(job.folder, kind=config.kind, report=write_training_report)
        else:
            run.discard()                                        # what a kill left while it started
            start_run(config, job.folder, report=write_training_report)
        network = open_network(run.checkpoint("best"), kind=config.kind, device=config.training.device)
        lack = calibrate_if_possible(network, config.data)
        if lack:
            LOG.warning("%s: not calibrated: %s", job.name, lack)
        for result in evaluate(network, config.data, REPORTED_SET, calibrated=not lack):
            warnings = (*result.warnings, f"not calibrated: {lack}") if lack else result.warnings
            write_evaluation(replace(result, warnings=warnings), run.reports)
        write_page(run)
    except (UserError, CheckFailed) as error:
        raise Rejected("not_possible" if isinstance(error, UserError) else "check_failed", str(error)) from None
    except Stopped:                                              # not a failure, which `attempt` would make of it
        raise SystemExit(STOPPED) from None
    LOG.info("%s: done in %.0f s", job.name, time.monotonic() - began)
