"""Memory: what a fit would need, and what is left."""

from __future__ import annotations

from pathlib import Path

from bayestl.errors import FitError


def foresee(size: int, pairs: int, draws: int | None, components: int, exact: bool, memory: float | None) -> None:
    """Refuse, before it is begun, a fit that would not fit into memory, and say what would.

    Parameters
    ----------
    size : observations, counted once for each function that they depend on
    pairs, draws : inducing pairs, none where rows are conditioned on exactly; draws of theta that predict, by default 64 if
        exactly, else `components`
    memory : bytes that may be used; by default what the machine has left
    """
    available = free_memory() if memory is None else float(memory)
    few = draws or components
    need = _exactly(size, draws or 64) if exact else _condensed(pairs, few)
    if need <= available:
        return
    fewer = [count for count in (2**k for k in range(12, 4, -1)) if count < (512 if exact else pairs)]
    cheaper = [("draws=4", _exactly(size, 4) if exact else _condensed(pairs, 4))]
    cheaper += [(f"pairs={count}", _condensed(count, few)) for count in fewer]
    cheaper += [(f"pairs={count}, draws=4", _condensed(count, 4)) for count in fewer]
    advice = next((f"fit(..., {how}) would do." for how, much in cheaper if much <= available), "")
    raise FitError(
        f"This fit needs about {need / 1e9:.2g} GB of memory beside the data; {available / 1e9:.2g} GB are available. "
        f"{advice or 'Give fewer rows, or use a machine with more memory.'}"
    )


def _exactly(size: int, draws: int) -> float:
    """Bytes that conditioning on so many observations takes: covariances, and the factors of as many draws as are kept."""
    return 8.0 * (6 * size**2 + min(draws * size**2, 125_000_000))


def _condensed(pairs: int, draws: int) -> float:
    """Bytes of the sums, their copies on the way and the factors; of candidates of the choice of pairs; of chunks of features."""
    return 8.0 * (8 * draws * pairs**2 + 3 * pairs * max(8192, 8 * pairs) + 12 * 2048 * pairs)


def free_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that this process may still use: of the machine, of its control groups, of its own limit."""
    found = [float("inf")]
    try:
        text = (proc / "meminfo").read_text()
        found.append(1024.0 * int(text.split("MemAvailable:")[1].split()[0]))
    except (OSError, IndexError, ValueError):
        pass
    try:
        own = Path((proc / "self/cgroup").read_text().split("0::/")[1].split("\n")[0])
    except (OSError, IndexError):
        own = Path()
    found += [_left_in(groups / level) for level in (own, *own.parents)]
    try:
        import resource

        limit_bytes = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit_bytes != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(float(limit_bytes - pages * resource.getpagesize()))
    except (ImportError, OSError, ValueError):
        pass
    return min(found)


def _left_in(group: Path) -> float:
    """Bytes that a control group may still use, pages of files included that it would give back."""
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        left = float("inf") if limit == "max" else float(int(limit) - int(used))
    except (OSError, ValueError):
        return float("inf")
    try:
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return left + float(kept["inactive_file"])
    except (OSError, ValueError, KeyError):
        return left
