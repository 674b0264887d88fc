"""What will happen: recipe and base in, a `Plan` out. Pure, and never imports torch."""

from qrecipe.plan.plan import Planned, make_plan, require_complete, require_data
from qrecipe.plan.values import Plan

__all__ = ["Plan", "Planned", "make_plan", "require_complete", "require_data"]
