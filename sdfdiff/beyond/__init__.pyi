from .flow_matching import StraightPath as StraightPath, denoiser_of as denoiser_of, euler_path as euler_path
from .flow_matching import velocity as velocity, weighted_objective as weighted_objective
from .variance_preserving import CosineVP as CosineVP, even_levels as even_levels
