from .corruption import (
    VE as VE,
    VP as VP,
    SubVP as SubVP,
    binary_field as binary_field,
    corrupt as corrupt,
    corruption_path as corruption_path,
    displacement as displacement,
    flip_probability as flip_probability,
    fragments as fragments,
    holes as holes,
)
from .fitting import (
    SETTINGS as SETTINGS,
    Setting as Setting,
    binary as binary,
    fit as fit,
    load_training_data as load_training_data,
    raw_score as raw_score,
    setting_of as setting_of,
    watch as watch,
)
from .losses import (
    Recipe as Recipe,
    denoising_loss as denoising_loss,
    draw_noise_levels as draw_noise_levels,
    encoder_loss as encoder_loss,
    mask_loss as mask_loss,
    one_call_loss as one_call_loss,
)
from .model import Model as Model, load_model as load_model, save_weights as save_weights
from .network import (
    Architecture as Architecture,
    Features as Features,
    ScoreNetwork as ScoreNetwork,
    fast_dtype as fast_dtype,
    multiply_adds as multiply_adds,
    scalings as scalings,
)
from .one_call import (
    SOFTNESS as SOFTNESS,
    block_means as block_means,
    fair_crps as fair_crps,
    fair_energy as fair_energy,
    noise_maps as noise_maps,
    score_terms as score_terms,
    soft_mask as soft_mask,
)
from .oracle import (
    FiniteMasks as FiniteMasks,
    GaussianField as GaussianField,
    high_frequency_power as high_frequency_power,
    score as score,
)
from .sampling import (
    SAMPLERS as SAMPLERS,
    Counted as Counted,
    ancestral as ancestral,
    calls as calls,
    dpm_solver as dpm_solver,
    euler_maruyama as euler_maruyama,
    gaussian as gaussian,
    geometric_levels as geometric_levels,
    heun as heun,
    karras_levels as karras_levels,
    last as last,
    member_generators as member_generators,
    predictor_corrector as predictor_corrector,
)
from .training import (
    COLUMNS as COLUMNS,
    Step as Step,
    Validation as Validation,
    stored_made_of as stored_made_of,
    stored_recipe as stored_recipe,
    train as train,
)
