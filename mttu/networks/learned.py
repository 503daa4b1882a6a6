"""What trained networks can say: a head that never saw a label has logits, but they mean nothing.

Heads are never skipped in a forward pass. Which of them have learned is kept beside the network
(`MttuNet.learned_tasks`, `learned_tasks` in `checkpoint.json`); the answers of the others are left out.
"""

from collections.abc import Collection, Mapping, Sequence

from mttu.config.network import Task
from mttu.networks.build import Network

TASKS: tuple[Task, ...] = ("segmentation", "idh")
_ANSWERS: Mapping[Task, str] = {"segmentation": "segmentation", "idh": "IDH probability"}
_HEADS: Mapping[Task, str] = {"segmentation": "decoder", "idh": "IDH head"}
_LABELS: Mapping[Task, str] = {"segmentation": "a tumour mask", "idh": "a known IDH status"}


def find_voters(networks: Sequence[Network], task: Task) -> list[int]:
    """Numbers, from 1, of the members of an ensemble that learned a task; only they answer it."""
    return [number for number, network in enumerate(networks, 1) if task in network.learned_tasks]


def explain_missing(tasks: Collection[str], learned: Collection[str]) -> dict[str, str]:
    """Each task that has no answer, with the reason in a sentence.

    Args:
        tasks: That the network has heads for.
        learned: Those whose head has seen a label.
    """
    return {
        task: f"no {_ANSWERS[task]}: no training case had {_LABELS[task]}"
        if task in tasks
        else f"no {_ANSWERS[task]}: the network has no {_HEADS[task]} (network.tasks)"
        for task in TASKS
        if task not in learned
    }


def explain_unlearned(tasks: Collection[str], learned: Collection[str]) -> dict[str, str]:
    """`explain_missing` of the tasks that the network has a head for."""
    return {task: reason for task, reason in explain_missing(tasks, learned).items() if task in tasks}


def explain_missing_answers(networks: Sequence[Network]) -> dict[str, str]:
    """`explain_missing` of an ensemble, or of one network: what none of its members can say."""
    tasks = {task for network in networks for task in network.tasks}
    return explain_missing(tasks, {task for network in networks for task in network.learned_tasks})


def tell_parts(networks: Sequence[Network]) -> bool:
    """Whether all members that learned the segmentation learned the parts of a tumour."""
    return all(network.learned_parts for network in networks if "segmentation" in network.learned_tasks)


PARTS_UNKNOWN = "the network learned from masks of the whole tumour, so it tells no core and no enhancing tumour"


def describe_voters(networks: Sequence[Network]) -> list[str]:
    """A sentence for each task that only some members learned."""
    sentences = []
    for task in TASKS:
        voters = len(find_voters(networks, task))
        if 0 < voters < len(networks):
            sentences.append(
                f"{_ANSWERS[task]} by {voters} of {len(networks)} members: no training case of the others had "
                f"{_LABELS[task]}"
            )
    return sentences
