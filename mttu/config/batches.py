"""How the patches of a step are dealt to workers and micro-batches."""

from dataclasses import dataclass

from mttu.config.training import TrainSettings
from mttu.errors import InputError


@dataclass(frozen=True)
class BatchShares:
    """Equal shares of a global batch: each worker takes `micro_batches` x `held` patches."""

    micro_batches: int
    """Taken one after the other; their gradients add up to those of the step."""
    held: int
    """Patches that a worker holds at once."""

    @property
    def of_worker(self) -> int:
        """Patches of one worker in a step."""
        return self.micro_batches * self.held


def share_batch(train: TrainSettings, num_workers: int) -> BatchShares:
    """Deals `train.global_batch` to workers, and a worker's share to the fewest equal micro-batches.

    A worker holds the largest number of patches at once that divides its share and is at most `train.batch_per_worker`.
    Micro-batches are of one size, because the statistics of batch norm depend on it.

    Raises:
        InputError: The global batch cannot be dealt equally; says what can.
    """
    total = train.global_batch
    if total % num_workers:
        *smaller, largest = [str(number) for number in range(1, total + 1) if total % number == 0]
        fits = f"{', '.join(smaller)} or {largest}" if smaller else largest
        reason = "is more than" if num_workers > total else "does not divide"
        near = max(1, round(total / num_workers)) * num_workers
        raise InputError(
            f"workers.num_workers: {num_workers} {reason} train.global_batch ({total}), whose patches are dealt "
            f"equally to all workers; set workers.num_workers to {fits}, or train.global_batch to a multiple of "
            f"{num_workers}, such as {near}, which is another recipe: other steps an epoch, and a learning rate that "
            "was chosen for another batch"
        )
    share = total // num_workers
    held = max(size for size in range(1, min(share, train.batch_per_worker) + 1) if share % size == 0)
    return BatchShares(share // held, held)


def describe_accumulation(train: TrainSettings, num_workers: int) -> str | None:
    """How micro-batches change the recipe, in a sentence; None where a worker takes its share at once."""
    shares = share_batch(train, num_workers)
    if shares.micro_batches == 1:
        return None
    most, total = train.batch_per_worker, train.global_batch
    why = f", the largest equal part up to train.batch_per_worker={most}" if shares.held < most else ""
    each = f"on each of {num_workers} workers" if num_workers > 1 else "on one worker"
    return (
        f"a change of recipe: the {total} patches of a step are taken in {shares.micro_batches} micro-batches of "
        f"{shares.held} {each}{why}; losses and gradients are those of all {total}, but batch norm sees "
        f"{shares.held * num_workers} at a time; train.batch_per_worker={shares.of_worker} avoids it, if it fits"
    )
