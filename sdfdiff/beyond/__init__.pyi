from .class_files import segment_class_file as segment_class_file
from .class_models import class_ensemble as class_ensemble, class_view as class_view, fit_classes as fit_classes
from .class_models import label_maps as label_maps, segment_classes as segment_classes
from .class_panel import ClassPanel as ClassPanel
from .class_scores import class_scores as class_scores, class_summary as class_summary, confusion as confusion
from .class_scores import evaluate_classes as evaluate_classes, macro_mean as macro_mean
from .classes import class_distances as class_distances, disagreement as disagreement, project as project
from .classes import ranked as ranked, to_label_map as to_label_map, unranked as unranked
from .flow_matching import StraightPath as StraightPath, denoiser_of as denoiser_of, euler_path as euler_path
from .flow_matching import velocity as velocity, weighted_objective as weighted_objective
from .generated_pairs import PairPanel as PairPanel, images_of_mask as images_of_mask
from .generated_pairs import nearest_differences as nearest_differences
from .joint import FinitePairs as FinitePairs, GaussianPairs as GaussianPairs, Pair as Pair, given_path as given_path
from .joint import joint_path as joint_path, pair_path as pair_path, starting_pair as starting_pair
from .pairs import PairArchitecture as PairArchitecture, PairNetwork as PairNetwork, draw_given as draw_given
from .pairs import load_pairs as load_pairs, pair_loss as pair_loss, sample_pairs as sample_pairs
from .pairs import save_pairs as save_pairs
from .variance_preserving import CosineVP as CosineVP, even_levels as even_levels
