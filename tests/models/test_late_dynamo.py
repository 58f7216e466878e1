"""A network of timm is built without importing torch's compiler, which stays whole for who needs it."""
import subprocess
import sys

CHECKS = """
import sys
from medical_fenlei.models.late_dynamo import late_dynamo
from medical_fenlei.models.slice_encoder import build_backbone
assert "timm" not in sys.modules
backbone, features = build_backbone("test_resnet", image_size=32, pretrained=False)
assert features and "torch._dynamo" not in sys.modules and "torch._dynamo.utils" not in sys.modules
import torch, torchvision
boxes = torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]])
mean = torchvision.ops.roi_align(torch.arange(16.0).reshape(1, 1, 4, 4), boxes, 1, aligned=True)
assert mean.item() == 7.5
with late_dynamo():
    import torch._dynamo.config
    from torch._dynamo.utils import is_compile_supported, same
assert torch._dynamo is sys.modules["torch._dynamo"] and hasattr(torch._dynamo, "optimize")
assert torchvision.ops.roi_align.__globals__["is_compile_supported"]("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
from timm.models.naflexvit import NaFlexRopeIterator
class Ended:
    _depth_idx = depth = 1
try:
    NaFlexRopeIterator.__next__(Ended())                         # a function that timm keeps from the compiler
except StopIteration:
    print("ended")
"""


def test_the_compiler_is_imported_when_it_is_wanted_and_not_before():
    said = subprocess.run([sys.executable, "-c", CHECKS], capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout == "ended\n", said.stderr
