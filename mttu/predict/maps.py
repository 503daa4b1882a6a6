"""Maps of a case, written on request: probability of each region, entropy, and deviation over passes or members."""

from pathlib import Path

from torch import Tensor

from mttu.data.geometry import Geometry, restore_map
from mttu.data.volumes import write_map
from mttu.inference.uncertainty import Samples, map_regions, measure_entropy
from mttu.predict.results import map_name


def write_maps(
    folder: Path, case_id: str, probabilities: Tensor, samples: Samples | None, tells_parts: bool, geometry: Geometry
) -> None:
    """Writes the maps that there are, on the grid of the case's images, values from 0 to 1.

    Args:
        folder: Where they are staged.
        case_id: They are named after it.
        probabilities: Of the labels, (4, H, W, D) on the prepared grid, as the mask is made from.
        samples: Over which tumour probabilities deviate; None or fewer than two: no such map.
        tells_parts: Whether the network tells the parts of a tumour.
        geometry: Position of the prepared grid on the original one.
    """
    maps = {f"{region}_probability": values for region, values in map_regions(probabilities, tells_parts).items()}
    maps["entropy"] = measure_entropy(probabilities, tells_parts)
    deviation = None if samples is None else samples.measure_deviation()
    if deviation is not None:
        maps["deviation"] = deviation
    for kind, values in maps.items():
        write_map(folder / map_name(case_id, kind), restore_map(values, geometry), geometry)
