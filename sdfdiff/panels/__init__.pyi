from .ensembles import EnsemblePanel as EnsemblePanel, ErrorPanel as ErrorPanel
from .live import LivePanel as LivePanel
from .masks import CorruptionPanel as CorruptionPanel, PaintPanel as PaintPanel
from .pages import Panel as Panel, StackPanel as StackPanel
from .samplers import ReversePanel as ReversePanel, method_with as method_with, reverse_run as reverse_run
