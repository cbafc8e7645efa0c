from .charts import CHARTS as CHARTS
from .evaluation import evaluate as evaluate, scores_by_convention as scores_by_convention, summary as summary
from .plan import StudyPlan as StudyPlan, read_plan as read_plan, study_cases as study_cases
from .report import report_page as report_page, write_report as write_report
from .store import export_study as export_study, finish as finish, open_study as open_study, run_study as run_study
from .verification import headline as headline, read_verified as read_verified, verify as verify
