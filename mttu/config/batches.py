"""How the patches of a step are split over workers and micro-batches."""

from dataclasses import dataclass

from mttu.config.training import TrainSettings
from mttu.errors import InputError


@dataclass(frozen=True)
class BatchShares:
    """Equal shares of a global batch: each worker takes `micro_batches` x `micro_batch_size` patches."""

    micro_batches: int
    """Taken one after the other; their gradients add up to those of the step."""
    micro_batch_size: int
    """Patches that a worker holds at once."""

    @property
    def per_worker(self) -> int:
        """Patches of one worker in a step."""
        return self.micro_batches * self.micro_batch_size


def share_batch(train: TrainSettings, num_workers: int) -> BatchShares:
    """Splits `train.global_batch` over workers, and each share into the fewest equal micro-batches.

    A worker holds the largest number of patches at once that divides its share and is at most `train.batch_per_worker`.
    Micro-batches are of one size, because the statistics of batch norm depend on it.

    Raises:
        InputError: The global batch cannot be split equally; says what would fit.
    """
    total = train.global_batch
    if total % num_workers:
        *smaller, largest = [str(number) for number in range(1, total + 1) if total % number == 0]
        fits = f"{', '.join(smaller)} or {largest}" if smaller else largest
        reason = "is more than" if num_workers > total else "does not divide"
        near = max(1, round(total / num_workers)) * num_workers
        raise InputError(
            f"workers.num_workers: {num_workers} {reason} train.global_batch ({total}), whose patches are split "
            f"equally over all workers; set workers.num_workers to {fits}, or train.global_batch to a multiple of "
            f"{num_workers}, such as {near}, which is another recipe: other steps an epoch, and a learning rate that "
            "was chosen for another batch"
        )
    share = total // num_workers
    micro_batch_size = max(size for size in range(1, min(share, train.batch_per_worker) + 1) if share % size == 0)
    return BatchShares(share // micro_batch_size, micro_batch_size)


def describe_accumulation(train: TrainSettings, num_workers: int) -> str | None:
    """How micro-batches change the recipe, in a sentence; None where a worker takes its share at once."""
    shares = share_batch(train, num_workers)
    if shares.micro_batches == 1:
        return None
    most, total = train.batch_per_worker, train.global_batch
    size = shares.micro_batch_size
    why = f", the largest equal part up to train.batch_per_worker={most}" if size < most else ""
    each = f"on each of {num_workers} workers" if num_workers > 1 else "on one worker"
    return (
        f"a change of recipe: the {total} patches of a step are taken in {shares.micro_batches} micro-batches of "
        f"{size} {each}{why}; losses and gradients are those of all {total}, but batch norm sees "
        f"{size * num_workers} at a time; train.batch_per_worker={shares.per_worker} avoids it, if it fits"
    )
