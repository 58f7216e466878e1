"""A trained network as it comes out of a checkpoint: with its settings, its task and its run."""
from dataclasses import dataclass
from pathlib import Path

from medical_fenlei.models.build import build_ear2d
from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.runs import Run
from medical_fenlei.tasks import Task, find_task
from medical_fenlei.training.checkpoint import EAR2D, Checkpoint, read_checkpoint
from medical_fenlei.training.config import RunConfig
from medical_fenlei.training.device import Arithmetic


@dataclass(frozen=True)
class Trained:
    checkpoint: Checkpoint
    run: Run
    task: Task
    model: Ear2d
    """On the device of `arithmetic`, in eval mode."""

    arithmetic: Arithmetic

    @property
    def config(self) -> RunConfig:
        return self.checkpoint.config


def open_ear2d(path: Path, *, device: str, precision: str | None = None) -> Trained:
    """Raises UserError if it is no checkpoint of an ear network; precision: the run's own by default."""
    checkpoint = read_checkpoint(path, kind=EAR2D)
    config = checkpoint.config
    task = find_task(config.data.label_task)
    arithmetic = Arithmetic.choose(device, precision or config.training.precision)
    model = build_ear2d(config.model, image_size=config.ears.image_size, outputs=task.outputs, start=False)
    model.load_state_dict(checkpoint.weights)
    return Trained(checkpoint, Run.of_checkpoint(path), task, model.to(arithmetic.device).eval(), arithmetic)
