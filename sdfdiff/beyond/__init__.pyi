from .flow_matching import StraightPath as StraightPath, denoiser_of as denoiser_of, euler_path as euler_path
from .flow_matching import velocity as velocity, weighted_objective as weighted_objective
from .generated_pairs import PairPanel as PairPanel, images_of_mask as images_of_mask
from .generated_pairs import nearest_differences as nearest_differences
from .joint import FinitePairs as FinitePairs, GaussianPairs as GaussianPairs, Pair as Pair, given_path as given_path
from .joint import joint_path as joint_path, pair_path as pair_path, starting_pair as starting_pair
from .pairs import PairArchitecture as PairArchitecture, PairNetwork as PairNetwork, draw_given as draw_given
from .pairs import draw_pairs as draw_pairs, load_pairs as load_pairs, pair_loss as pair_loss, save_pairs as save_pairs
from .variance_preserving import CosineVP as CosineVP, even_levels as even_levels
