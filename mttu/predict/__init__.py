"""From MRI to masks, overlays and a table of IDH probabilities. Research use only."""

from mttu.predict.cases import predict_cases, write_segmentation
from mttu.predict.plan import PredictionPlan, plan_predictions
from mttu.predict.postprocess import find_postprocessing, plan_postprocessing
from mttu.predict.results import PredictionRow

__all__ = [
    "PredictionPlan",
    "PredictionRow",
    "find_postprocessing",
    "plan_postprocessing",
    "plan_predictions",
    "predict_cases",
    "write_segmentation",
]
