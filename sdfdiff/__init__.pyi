__version__: str

from . import diffusion as diffusion
from . import distance as distance
from . import drawing as drawing
from . import ensembles as ensembles
from . import files as files
from . import images as images
from . import panels as panels
from . import provenance as provenance
from . import shapes as shapes
from . import study as study
from . import uncertainty as uncertainty
from .diffusion.model import load_model as load_model
from .distance import signed_distance as signed_distance, to_mask as to_mask
from .ensembles.collection import ensemble as ensemble
from .ensembles.method import Method as Method
from .ensembles.segmentation import segment as segment
from .files import read_image as read_image
from .images.synthetic import tissue as tissue
from .panels.ensembles import EnsemblePanel as EnsemblePanel, ErrorPanel as ErrorPanel
from .panels.live import LivePanel as LivePanel
from .panels.masks import CorruptionPanel as CorruptionPanel, PaintPanel as PaintPanel
from .panels.pages import StackPanel as StackPanel
from .panels.samplers import ReversePanel as ReversePanel
from .study.evaluation import evaluate as evaluate
from .study.plan import StudyPlan as StudyPlan, read_plan as read_plan
from .study.report import write_report as write_report
from .study.store import open_study as open_study, run_study as run_study
from .study.verification import headline as headline, verify as verify
