"""What a bundle says of itself: `configs/metadata.json` by MONAI's specification, `docs/README.md`, the workflow."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import entry_points, version
from typing import Any

from mttu import __version__
from mttu.config import Config
from mttu.config.network import OURS, PLUG_INS, Task
from mttu.data.labels import CLASSES
from mttu.figures.overlay import RESEARCH_USE
from mttu.networks import Network
from mttu.networks.rivals.registry import find_entry
from mttu.patients import KnownPatients

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
NOT_STATED = "not stated"
MARK = "mttu"
"""Entry of `metadata.json` by which a bundle of ours is known."""
_NEEDED = ("nibabel", "safetensors", "scipy")
_FIRE = {"fire": "0.7"}
"""MONAI's command line is made with it; mttu does without."""
_PAPER = (
    "Cheng J., Liu J., Kuang H., Wang J. A Fully Automated Multimodal MRI-Based Multi-Task Learning for Glioma "
    "Segmentation and IDH Genotyping. IEEE Transactions on Medical Imaging, 2022. doi:10.1109/TMI.2022.3142321"
)


def describe_bundle(
    network: Network,
    config: Config,
    record: Mapping[str, Any],
    weights_sha256: str,
    known: KnownPatients | None,
    bundle_version: str,
    authors: str,
    terms: str,
) -> dict[str, Any]:
    """The content of `metadata.json`; JSON values that name no patient, folder or machine.

    Args:
        network: Whose tasks are described.
        config: Settings of the checkpoint.
        record: Content of `checkpoint.json`.
        weights_sha256: Of the file of weights.
        known: Patients that it was trained on, of which only a fingerprint of the cohort is told.
        bundle_version: Of this model, by its maker.
        authors: Who made the model.
        terms: Copyright and licence of the weights.
    """
    answers = " and ".join(_list_answers(network.learned_tasks))
    return {
        "schema": SCHEMA,
        "version": bundle_version,
        "changelog": {bundle_version: f"exported from a checkpoint by mttu {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": _list_packages(config),
        "name": f"{config.network.kind} for glioma",
        "task": f"Glioma on brain MRI: {answers}",
        "description": f"A network of the kind {config.network.kind}, trained by mttu. From {_name_images(config)} of "
        f"a case to {answers}. {RESEARCH_USE} Needs the package mttu, which prepares the images and holds the network.",
        "authors": authors,
        "copyright": terms,
        "intended_use": f"{RESEARCH_USE} No medical device; not for decisions about patients.",
        "data_source": "not stated; mttu.cohort_fingerprints are the same for networks of the same cohort",
        "data_type": "nifti",
        "image_classes": f"{_name_images(config)}, skull-stripped, at {config.data.prepare.spacing_mm:g} mm, z-scores "
        "inside the brain",
        "label_classes": ", ".join(f"{index} {name}" for index, name in enumerate(CLASSES)),
        "pred_classes": answers,
        "eval_metrics": record.get("metrics", {}),
        "references": [_PAPER if config.network.kind == OURS else find_entry(config.network.kind).source],
        "network_data_format": _describe_tensors(network, config),
        MARK: {
            "version": __version__,
            "weights_sha256": weights_sha256,
            "learned_tasks": sorted(network.learned_tasks),
            "tells_parts": network.learned_parts,
            "cohort_fingerprints": None if known is None else fingerprint(known),
        },
    }


def fingerprint(known: KnownPatients) -> list[str]:
    """Says of two networks whether they learned from the same cohort, and nothing else; one for each cohort.

    The key of a cohort's digests follows from the content of its images; this is a digest of that key.
    """
    return [hashlib.sha256(f"mttu cohort {key.salt}".encode()).hexdigest()[:16] for key in known.keys]


def _list_answers(tasks: Collection[Task]) -> list[str]:
    told: Mapping[Task, str] = {"segmentation": "a mask of the tumour", "idh": "the probability of an IDH mutation"}
    return [answer for task, answer in told.items() if task in tasks]


def _name_images(config: Config) -> str:
    return ", ".join(config.data.modalities)


def _list_packages(config: Config) -> dict[str, str]:
    found = {"mttu": __version__, **_FIRE, **{name: version(name) for name in _NEEDED}}
    if config.network.kind != OURS:
        points = entry_points(group=PLUG_INS, name=config.network.kind)
        found |= {point.dist.name: point.dist.version for point in points if point.dist is not None}
    return found


def _describe_tensors(network: Network, config: Config) -> dict[str, Any]:
    size, modalities = list(config.patch.size), config.data.modalities
    image = _tensor("image", "magnitude", size, modalities, []) | {"modality": "MR"}
    if "segmentation" in network.learned_tasks:
        names = CLASSES if network.learned_parts else ("background", *(f"tumour, part not told ({n})" for n in "123"))
        return {"inputs": {"image": image}, "outputs": {"pred": _tensor("image", "labels", size, names, [0, 1])}}
    pred = _tensor("probabilities", "classes", [], ("IDH wild type", "IDH mutant"), [0, 1])
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}


def _tensor(
    kind: str, content: str, size: Sequence[int], channels: Sequence[str], values: Sequence[float]
) -> dict[str, Any]:
    return {
        "type": kind,
        "format": content,
        "num_channels": len(channels),
        "spatial_shape": list(size),
        "dtype": "float32",
        "value_range": list(values),
        "is_patch_data": True,
        "channel_def": {str(index): name for index, name in enumerate(channels)},
    }


def describe_workflow(network: Network, config: Config) -> dict[str, Any]:
    """The content of `configs/inference.json`; whoever runs it gives `bundle_root`, `dataset_dir` and `output_dir`."""
    ours = "mttu.export.running"
    root, data = {"bundle_root": "@bundle_root"}, {"dataset_dir": "@dataset_dir"}
    windows = {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(config.patch.size),
        "sw_batch_size": 1,
        "overlap": config.inference.overlap,
        "mode": "gaussian",
    }
    return {
        "bundle_root": ".",
        "dataset_dir": "data",
        "output_dir": "$str(@bundle_root) + '/eval'",
        "labels": "brats" if network.learned_parts else "whole-tumour",
        "changes": {},
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": f"{ours}.load_network", **root},
        "dataset": {"_target_": f"{ours}.PreparedCases", **root, **data},
        "inferer": windows if "segmentation" in network.learned_tasks else {"_target_": "SimpleInferer"},
        "evaluator": {
            "_target_": f"{ours}.Prediction",
            **root,
            **data,
            "output_dir": "@output_dir",
            "labels": "@labels",
            "device": "@device",
            "changes": "@changes",
        },
        "run": ["$@evaluator.run()"],
    }


LOGGING = """[loggers]
keys=root,mttu

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=WARNING
handlers=console

[logger_mttu]
level=INFO
handlers=
qualname=mttu

[handler_console]
class=StreamHandler
args=(sys.stdout,)
formatter=plain

[formatter_plain]
format=%(message)s
"""


def describe_in_words(metadata: Mapping[str, Any], config: Config, calibrated: str) -> str:
    """The content of `docs/README.md`."""
    packages = [name for name in metadata["required_packages_version"] if name not in ("mttu", *_FIRE, *_NEEDED)]
    also = f", and {', '.join(packages)}, which brings the network" if packages else ""
    return f"""# {metadata["name"]}, version {metadata["version"]}

**{metadata["intended_use"]}**

{metadata["description"]}

## Run it

Needs Python with mttu {__version__} and fire, by which MONAI makes its command line{also}.

```sh
python -m monai.bundle run --config_file BUNDLE/configs/inference.json --bundle_root BUNDLE \\
    --dataset_dir CASES --output_dir OUT
```

BUNDLE is this folder, CASES a case folder or a folder of them, one folder per patient with NIfTI files of
{_name_images(config)}, skull-stripped. OUT gets a mask per case on the grid of its own images, an overlay, and
`predictions.csv` with the probability of an IDH mutation; its README.txt explains the columns.

`--labels` chooses the labels of the masks (brats, brats2023, msd, whole-tumour), `--device cpu` the processor,
`--changes "{{'inference.flips': True}}"` other settings of the prediction.

## What it is

- The workflow calls the code of `mttu predict`: preparation, windows, post-processing and network are those of the
  package mttu, {__version__} where this was written. With the same version, device and number of threads, masks and
  probabilities are the same to the bit. It does not run without mttu.
- `models/` is a checkpoint of mttu: weights as safetensors, no pickle and so no `model.pt`; `mttu predict BUNDLE/models
  CASES -o OUT` runs it too.
- `network_def` maps one prepared window to probabilities. With `inferer` it gives those of a prepared image of
  `dataset`, but without flips, post-processing and the way back to the original grid.
- A workflow file can run any code: read `configs/inference.json` before you run a bundle that is not yours.
- {calibrated}
- No patient is named here, not even by digest, so nobody is told when a case is one that the network learned from.
  Trained weights can reveal something of the training data.

## Whose it is

Authors: {metadata["authors"]}

Copyright and licence of the weights: {metadata["copyright"]}. The data that they were trained on may have terms of its
own. The code that runs them, mttu, is under Apache-2.0.
"""
