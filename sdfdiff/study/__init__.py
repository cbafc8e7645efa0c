"Many images and several methods: plan, run, verify, draw, report."

from .. import _serve

TYPE_CHECKING = False

if TYPE_CHECKING:  # never true: for editors, type checkers and `_serve`
    from .plan import Method as Method, StudyPlan as StudyPlan

__getattr__, __dir__ = _serve(__name__, __file__)
