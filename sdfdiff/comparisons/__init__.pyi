from .answers import APPROACHES as APPROACHES, Approach as Approach, as_ensemble as as_ensemble, ask as ask
from .answers import load_approach as load_approach
from .attention import AxialUNet as AxialUNet, MedT as MedT
from .fitting import fit_network as fit_network, load_network as load_network
from .judging import judge as judge
from .masks import MaskDiffusion as MaskDiffusion, draw_masks as draw_masks
from .networks import NETWORKS as NETWORKS, SegNet as SegNet, Segmenter as Segmenter, probabilities as probabilities
from .table import by_approach as by_approach, gaps as gaps, table_text as table_text, read_table as read_table
from .table import run_table as run_table
