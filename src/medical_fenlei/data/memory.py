"""How much memory can still be allocated, on the host and on the device."""
import os
from pathlib import Path

import torch


def free_device_memory(device: torch.device) -> int:
    """Bytes that can still be allocated where the network computes."""
    if device.type == "cpu":
        return free_memory()
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)        # held by torch, not in use
    return torch.cuda.mem_get_info(device)[0] + cached


def free_memory() -> int:
    """Bytes of host memory that this process can still allocate: of the machine, or of its control group if that is less."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        group = Path("/sys/fs/cgroup")
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        reclaimable = int(stat["inactive_file"])
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()) + reclaimable
    except (OSError, ValueError, KeyError):                      # no control group, or no limit ("max")
        return free
    return max(0, min(free, limit))
