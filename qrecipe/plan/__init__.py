"""Plans: recipe and base in, a `Plan` out. Never imports torch."""

from qrecipe.plan.complete import RunPlan, complete_plan
from qrecipe.plan.plan import make_plan
from qrecipe.plan.planned import Planned, require_complete, require_data
from qrecipe.plan.values import Plan

__all__ = ["Plan", "Planned", "RunPlan", "complete_plan", "make_plan", "require_complete", "require_data"]
