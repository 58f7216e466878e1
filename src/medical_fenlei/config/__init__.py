"""Which settings does a run have? Each is typed once: flags, `config.json` and checkpoints come from these classes.

Nothing here imports anything but the standard library, so that `--help` answers at once.
"""
from medical_fenlei.config.augment import BONE, WINDOWS, AugmentConfig
from medical_fenlei.config.data import DataConfig
from medical_fenlei.config.ears import PREPROCESSING_VERSION, EarSpec
from medical_fenlei.config.model import ANATOMY, SIZE_STEP, SLICE_ATTENTION, ModelConfig, PhysicalScale
from medical_fenlei.config.run import DUAL, DUAL_ROUTE, EAR2D, EAR_ROUTE, RunConfig, decisive_settings
from medical_fenlei.config.training import EPOCHS, LONG_TAIL, TrainConfig

__all__ = [
    "ANATOMY", "BONE", "DUAL", "DUAL_ROUTE", "EAR2D", "EAR_ROUTE", "EPOCHS", "LONG_TAIL", "PREPROCESSING_VERSION", "SIZE_STEP",
    "SLICE_ATTENTION", "WINDOWS", "AugmentConfig", "DataConfig", "EarSpec", "ModelConfig", "PhysicalScale", "RunConfig",
    "TrainConfig", "decisive_settings",
]
