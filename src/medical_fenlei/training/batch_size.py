"""Find the largest batch that fits by taking training steps on noise; the network is left as it was."""
import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from medical_fenlei.data.memory import free_memory
from medical_fenlei.training.device import ComputeSettings

MAX_BATCH_SIZE = 256
"""Upper bound of the search."""
MIN_STEPS_PER_EPOCH = 4
"""A batch is at most this fraction of an epoch."""
CPU_SHARE = 0.5
"""Share of the free memory that a batch may take on the CPU."""
HEADROOM = 0.9
"""Share of the largest batch that fitted on a GPU: memory fragments in a long run."""
OUT_OF_MEMORY_MESSAGES = (
    "out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed",
    "cuda_error_out_of_memory", "failed to allocate", "unable to find an engine",
)
"""Parts of the libraries' messages when memory runs out, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory ran out, judged by its type or its message."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in OUT_OF_MEMORY_MESSAGES)


def largest_batch(
    model: nn.Module, shape: tuple[int, ...], compute: ComputeSettings, *, samples: int, processes: int = 1
) -> int:
    """Return how many samples of shape (E, K, C, H, W) a training step can take.

    At most samples / MIN_STEPS_PER_EPOCH and MAX_BATCH_SIZE. processes: how many share the memory of the host. On a GPU, steps
    are tried until one runs out of memory. On a CPU that would kill the process, so the activations of a step are measured
    instead. Weights, buffers, gradients, mode and random state are restored. Raises an error if one sample does not fit.
    """
    bound = max(1, min(MAX_BATCH_SIZE, samples // MIN_STEPS_PER_EPOCH))
    with _restored(model, compute.device):
        if compute.device.type == "cpu":
            fits = int(CPU_SHARE * free_memory() / processes / _bytes_per_sample(model, shape, compute))
            return max(1, min(bound, fits))
        found = _search(lambda n: _fits(model, (n, *shape), compute), bound)
    if compute.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(compute.device)       # the run reports its own peak, not that of the search
    if found == 0:
        raise torch.OutOfMemoryError(f"not even one sample of shape {shape} fits")
    return found if found == bound else max(1, int(HEADROOM * found))


def _search(fits: Callable[[int], bool], bound: int) -> int:
    """Return the largest n up to `bound` that fits, 0 if none does: double until one fails, then bisect."""
    good, bad = 0, bound + 1
    size = 1
    while good + 1 < bad:
        if fits(size):
            good = size
        else:
            bad = size
        size = min(2 * good, bound) if bad == bound + 1 and good else (good + bad) // 2
    return good


def _fits(model: nn.Module, shape: tuple[int, ...], compute: ComputeSettings) -> bool:
    """Whether a training step on a batch (N, E, K, C, H, W) runs within the memory of the GPU."""
    try:
        _step(model, shape, compute)
        torch.cuda.synchronize()
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def _step(model: nn.Module, shape: tuple[int, ...], compute: ComputeSettings) -> None:
    """Take one training step on noise, with the state of an optimizer beside the weights."""
    volume = torch.rand(shape[0] * shape[1], *shape[2:], device=compute.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    with compute.autocast():
        logits = model(volume).logits
    logits.float().square().mean().backward()
    optimizer.step()


def _bytes_per_sample(model: nn.Module, shape: tuple[int, ...], compute: ComputeSettings) -> float:
    """Return what a step keeps for the backward pass of one more sample: two samples minus one, so weights do not count."""
    def kept(samples: int) -> int:
        sizes: dict[int, int] = {}

        def measure(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        volume = torch.rand(samples * shape[0], *shape[1:])
        with torch.autograd.graph.saved_tensors_hooks(measure, lambda tensor: tensor), compute.autocast():
            model(volume)
        return sum(sizes.values())

    return 2.0 * max(1, kept(2) - kept(1))                       # gradients of activations take as much again


@contextlib.contextmanager
def _restored(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore weights, buffers, mode, gradients and torch's random state at the end of the context."""
    before = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(p, p.grad) for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    model.train()
    with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
        try:
            yield
        finally:
            model.load_state_dict(before)
            for module, mode in modes:
                module.training = mode
            for parameter, gradient in gradients:
                parameter.grad = gradient
