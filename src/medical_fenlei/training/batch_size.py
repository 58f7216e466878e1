"""The largest batch that fits, found by taking training steps on it, leaving no trace of them."""
import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from medical_fenlei.data.storage import free_memory
from medical_fenlei.training.device import Arithmetic

LARGEST = 256
"""More is never tried."""
STEPS_AN_EPOCH = 4
"""A batch leaves at least so many."""
CPU_SHARE = 0.5
"""Of the free memory that a batch may take on the CPU."""
HEADROOM = 0.9
"""Of the largest batch that fitted on a GPU: its memory fragments in a long run."""
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed",
             "cudnn_status_alloc_failed", "cuda_error_out_of_memory", "failed to allocate", "unable to find an engine")
"""What the libraries say when memory runs out, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)


def largest_batch(
    model: nn.Module, shape: tuple[int, ...], arithmetic: Arithmetic, *, samples: int, sharers: int = 1
) -> int:
    """How many samples of shape (E, K, C, H, W) a training step can take, at most samples / STEPS_AN_EPOCH and LARGEST.

    Weights, buffers (BatchNorm's statistics), gradients, mode and the random state are afterwards what they were. On a GPU
    steps are tried until one runs out of memory; on a CPU, where running out kills the process, the activations of a step are
    weighed instead, against the part of the memory that each of the sharers gets. Raises the error of a step with one sample
    if not even that fits.
    """
    bound = max(1, min(LARGEST, samples // STEPS_AN_EPOCH))
    with _untouched(model, arithmetic.device):
        if arithmetic.device.type == "cpu":
            fits = int(CPU_SHARE * free_memory() / sharers / _bytes_a_sample(model, shape, arithmetic))
            return max(1, min(bound, fits))
        found = _search(lambda n: _fits(model, (n, *shape), arithmetic), bound)
    if arithmetic.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(arithmetic.device)    # or the run would tell of what the tries took
    if found == 0:
        raise torch.OutOfMemoryError(f"not even one sample of shape {shape} fits")
    return found if found == bound else max(1, int(HEADROOM * found))


def _search(fits: Callable[[int], bool], bound: int) -> int:
    """The largest n up to `bound` that fits, 0 if none: doubled until one does not, then halved in between."""
    good, bad = 0, bound + 1
    size = 1
    while good + 1 < bad:
        if fits(size):
            good = size
        else:
            bad = size
        size = min(2 * good, bound) if bad == bound + 1 and good else (good + bad) // 2
    return good


def _step(model: nn.Module, shape: tuple[int, ...], arithmetic: Arithmetic) -> None:
    """One step of training on noise, with an optimizer's state beside the weights."""
    volume = torch.rand(shape[0] * shape[1], *shape[2:], device=arithmetic.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    with arithmetic.autocast():
        logits = model(volume).logits
    logits.float().square().mean().backward()
    optimizer.step()


def _fits(model: nn.Module, shape: tuple[int, ...], arithmetic: Arithmetic) -> bool:
    try:
        _step(model, shape, arithmetic)
        torch.cuda.synchronize()
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def _bytes_a_sample(model: nn.Module, shape: tuple[int, ...], arithmetic: Arithmetic) -> float:
    """What a step keeps for its backward pass, of the second of two samples: weights are counted once."""
    def kept(samples: int) -> int:
        sizes: dict[int, int] = {}

        def weigh(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        volume = torch.rand(samples * shape[0], *shape[1:])
        with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor), arithmetic.autocast():
            model(volume)
        return sum(sizes.values())

    return 2.0 * max(1, kept(2) - kept(1))                       # as much again for gradients on their way


@contextlib.contextmanager
def _untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Weights, buffers, mode, gradients and torch's random state as they were."""
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
