from .calibration import (
    Recalibration as Recalibration,
    band as band,
    brier as brier,
    calibration_error as calibration_error,
    cross_fitted as cross_fitted,
    fit_recalibration as fit_recalibration,
    recalibrated as recalibrated,
    reliability as reliability,
)
from .errors import (
    augrc as augrc,
    aurc as aurc,
    auroc as auroc,
    ause as ause,
    mutual_information as mutual_information,
    retained_error as retained_error,
    sparsification as sparsification,
    tied_shares as tied_shares,
    uncertainty_maps as uncertainty_maps,
)
from .fields import bootstrap as bootstrap, mask_distance as mask_distance, named as named
from .forecasts import (
    crps as crps,
    energy_distance as energy_distance,
    expected_loss as expected_loss,
    hungarian_iou as hungarian_iou,
    rank_histogram as rank_histogram,
    rank_shape as rank_shape,
    spread_skill as spread_skill,
    spread_skill_ratio as spread_skill_ratio,
    untied as untied,
)
from .instances import instance_scores as instance_scores, instance_sums as instance_sums, split as split
from .margins import (
    conformal_margin as conformal_margin,
    coverage_interval as coverage_interval,
    growing_fields as growing_fields,
    grown as grown,
    margin_curve as margin_curve,
    margin_price as margin_price,
    margin_trade_off as margin_trade_off,
    needed_margin as needed_margin,
    risk_controlled_margin as risk_controlled_margin,
)
from .metrics import (
    average as average,
    boundary as boundary,
    boundary_distances as boundary_distances,
    counts as counts,
    patch_counts as patch_counts,
    scores as scores,
    scores_from_counts as scores_from_counts,
)
from .objects import match_objects as match_objects, object_scores as object_scores, object_table as object_table
