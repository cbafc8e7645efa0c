from .cases import (
    DATASETS as DATASETS,
    SPLITS as SPLITS,
    Case as Case,
    CasePaths as CasePaths,
    Prepared as Prepared,
    find_cases as find_cases,
    hold_out as hold_out,
    prepare_case as prepare_case,
    read_case as read_case,
    split_cases as split_cases,
    tell_without_instances as tell_without_instances,
)
from .preparation import (
    GLANDS as GLANDS,
    NUCLEI as NUCLEI,
    TISSUE as TISSUE,
    Preparation as Preparation,
    Stain as Stain,
    fit_stain as fit_stain,
    haematoxylin as haematoxylin,
    normalise_stain as normalise_stain,
    prepare_image as prepare_image,
    prepare_labels as prepare_labels,
)
from .readers import microns_of as microns_of
from .slides import Slide as Slide, find_tissue as find_tissue, tiles as tiles
from .synthetic import Nucleus as Nucleus, Tissue as Tissue, tissue as tissue
from .training_data import (
    PAPER as PAPER,
    STRONG as STRONG,
    Augmentation as Augmentation,
    TissueTrainingData as TissueTrainingData,
    TrainingData as TrainingData,
    folds as folds,
    keep_apart as keep_apart,
)
