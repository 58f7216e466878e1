"""The methods of explanation by name, without torch, so that a wrong name ends a command at once."""
from collections.abc import Iterable

from medical_fenlei.errors import UserError

INTEGRATED = "integrated"
CAMS = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "hirescam": "HiResCAM", "layercam": "LayerCAM",
        "xgradcam": "XGradCAM"}
"""Classes of the grad-cam library, by the name of the method."""
METHODS = (INTEGRATED, *CAMS)


def check_methods(methods: Iterable[str]) -> None:
    """Raise UserError for a name that is not one of METHODS."""
    for method in methods:
        if method not in METHODS:
            raise UserError(f"--method: got {method!r}, expected some of {', '.join(METHODS)}")
